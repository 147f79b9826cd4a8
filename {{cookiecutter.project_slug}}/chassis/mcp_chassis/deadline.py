"""A deadline that holds even over work that ignores its cancellation (E5)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import anyio

_Result = TypeVar("_Result")

_GRACE: Final = 1.0
"""Seconds that cancelled work may take to clean up; then it is left behind, and its caller is answered."""

_left_behind: set[asyncio.Task[Any]] = set()
"""The event loop keeps weak references only."""


class DeadlinePassed(Exception):
    """The work took longer than it may."""


async def within(seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what `work` returns in that time; it runs in a task of its own, so that it can be left behind.

    Raises:
        DeadlinePassed: If the time is over.
        BaseException: Whatever `work` raised, a cancellation of its own making included.
    """
    task = asyncio.create_task(_outcome(work))
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise DeadlinePassed
    finally:
        if not task.done():
            await _stop(task)
    result: _Result
    result, error = task.result()
    if error is not None:
        raise error
    return result


async def _outcome(work: Coroutine[Any, Any, _Result]) -> tuple[Any, BaseException | None]:
    """Return what came of `work`: a task must not raise SystemExit, the event loop would end with it."""
    try:
        return await work, None
    except BaseException as error:
        return None, error


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    with anyio.CancelScope(shield=True):
        await asyncio.wait({task}, timeout=_GRACE)
