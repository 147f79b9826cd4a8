"""The way to Redis: commands that come together travel together, and silence is noticed once for all of them (L9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from mcp_chassis.state.store import StoreDown

CONNECTIONS: Final = 4
"""Commands of one moment share a batch; those of the next need not wait until it is back."""
_PAUSE: Final = 0.25
"""Seconds between two looks whether a silent Redis is back."""
_PATIENCE: Final = 1.0
"""Seconds such a look may take: nobody waits for it."""
_LATE: Final = 0.01
"""Seconds by which this process may have been late itself before its own delay is not called Redis's silence."""
_EXTENSIONS: Final = 3

Command = tuple[str | int, ...]
_Answer = TypeVar("_Answer")


class Link:
    """A few connections; on each, a batch waits for the one before it.

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
        self._senders: set[asyncio.Task[None]] = set()
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
        if len(self._senders) < CONNECTIONS:
            self._senders.add(_apart(self._send()))
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
            if self._recovery is None:
                self._recovery = _apart(self._recover())
                self._on_change(False)
        finally:
            self._senders.discard(cast(asyncio.Task[None], asyncio.current_task()))

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
            # We ask nothing wrong: a Redis that refuses (read-only, out of memory, no replicas) is as good as silent.
            if isinstance(answer, Exception):
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
        """Tell whether Redis decides again, and in time: one that is slow would come and go."""
        try:
            await _within(_PATIENCE, self._pipeline([("PING",)]))  # connecting may take its time
            await _within(self._longest, self._answers([self._look]))
        except Exception:  # whatever it is, the next look may find it gone
            return False
        return True

    async def close(self) -> None:
        """Close the connection."""
        for task in (self._recovery, *self._senders):
            if task is not None:
                task.cancel()
        self._refuse(self._waiting, ConnectionError())
        await self._redis.aclose()


def _apart(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start work that serves everybody: its log lines must not name the request that happened to come first."""
    return asyncio.create_task(work, context=Context())


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
