"""The way to Redis: commands that come together travel together, and silence is noticed once for all of them (L9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError

from mcp_chassis.state.store import StoreDown

_PAUSE: Final = 0.25
"""Seconds between two looks whether a silent Redis is back."""
_PATIENCE: Final = 1.0
"""Seconds such a look may take: nobody waits for it."""
_LATE: Final = 0.01
"""Seconds by which this process may have been late itself before its own delay is not called Redis's silence."""
_EXTENSIONS: Final = 3

_UNABLE: Final = (BusyLoadingError, OutOfMemoryError, ReadOnlyError)
"""Answers of a Redis that can keep nothing: it is as good as silent."""

Command = tuple[str | int, ...]
_Answer = TypeVar("_Answer")


class Link:
    """One connection on which each batch waits for the one before it.

    Args:
        redis: The client.
        look: A command that shows whether it can keep something.
        longest: Seconds of silence after which Redis counts as down; until it is back every command fails at once.
        on_change: Told with True or False when Redis begins or ceases to answer.
    """

    def __init__(self, redis: Redis, *, look: Command, longest: float, on_change: Callable[[bool], None]) -> None:
        self._redis = redis
        self._look = look
        self._longest = longest
        self._on_change = on_change
        self._scripts: tuple[str, ...] = ()
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None

    def use(self, *scripts: str) -> None:
        """Load `scripts` whenever Redis does not know them."""
        self._scripts = scripts

    async def ask(self, *command: str | int) -> Any:
        """Return Redis's answer to one command.

        Raises:
            StoreDown: If there is none in time, or Redis refuses the command.
        """
        if self._recovery is not None:
            raise StoreDown("silent")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        found = await answer
        if isinstance(found, Exception):
            raise StoreDown(type(found).__name__)
        return found

    async def _send(self) -> None:
        batch: list[tuple[Command, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                answers = await _within(self._longest, self._answers([command for command, _ in batch]))
                for (_, answer), found in zip(batch, answers, strict=True):
                    if not answer.done():
                        answer.set_result(found)
        except asyncio.CancelledError:
            self._refuse([*batch, *self._waiting], ConnectionError())
            raise
        except Exception as error:  # whatever it is, nobody may wait for ever
            self._refuse([*batch, *self._waiting], error)
            self._on_change(False)
            self._recovery = asyncio.create_task(self._recover())
        finally:
            self._sender = None

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers in order; a Redis that was restarted has lost the scripts and gets them again."""
        found = await self._pipeline(commands)
        lost = [index for index, answer in enumerate(found) if isinstance(answer, NoScriptError)]
        if lost:
            await self._pipeline([("SCRIPT LOAD", script) for script in self._scripts])
            again = await self._pipeline([commands[index] for index in lost])
            for index, answer in zip(lost, again, strict=True):
                found[index] = answer
        for answer in found:
            if isinstance(answer, _UNABLE) or (isinstance(answer, Exception) and "MISCONF" in str(answer)):
                raise answer
        return found

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    def _refuse(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]], error: Exception) -> None:
        self._waiting = []
        for _, answer in batch:
            if not answer.done():
                answer.set_result(error)

    async def _recover(self) -> None:
        well = False
        while not well:
            await asyncio.sleep(_PAUSE)
            well = await self._well()
        self._recovery = None
        self._on_change(True)

    async def _well(self) -> bool:
        try:
            (found,) = await _within(_PATIENCE, self._pipeline([self._look]))
        except Exception:  # whatever it is, the next look may find it gone
            return False
        return not isinstance(found, Exception)

    async def close(self) -> None:
        """Close the connection."""
        for task in (self._recovery, self._sender):
            if task is not None:
                task.cancel()
        self._sender = None
        self._refuse(self._waiting, ConnectionError())
        await self._redis.aclose()


async def _within(seconds: float, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Return what `work` returns.

    Raises:
        TimeoutError: If it takes longer while this process had time to look.
    """
    task = asyncio.ensure_future(work)
    clock = asyncio.get_running_loop().time
    try:
        for _ in range(_EXTENSIONS):
            begun = clock()
            await asyncio.wait({task}, timeout=seconds)
            if task.done():
                return task.result()
            if clock() - begun < seconds + _LATE:
                break
        raise TimeoutError
    finally:
        task.cancel()
