"""State shared by all replicas, in Redis (`redis://…`)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from importlib import resources
from typing import Any, Final, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from mcp_chassis.state.store import LONGEST, Bucket, Budget, Conduct, Decision, Escalation, Refusing, StoreDown

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
_COMMON, _ADMISSION, _CALL = re.split(
    "^--- .*$", resources.files("mcp_chassis.state").joinpath("decisions.lua").read_text(encoding="utf-8"), flags=re.M
)
ADMISSION: Final = _COMMON + _ADMISSION
CALL: Final = _COMMON + _CALL
_HASHES: Final = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in (ADMISSION, CALL)
}
_NOBODY: Final = Conduct("conduct:", "", Escalation(0, 0, 0, 0, 1))
_REFUSING: Final[dict[int, Refusing | None]] = {0: None, -1: "revoked", -2: "suspended", -3: "budget"}


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
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._recovery: asyncio.Task[None] | None = None

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
            await self._pipeline([("SCRIPT LOAD", script) for script in _HASHES])
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


class RedisStore:
    """State in Redis, all under one hash tag, so that a cluster keeps a server's state on one node.

    Args:
        url: `redis://` or `rediss://`.
        server: The server's name; it becomes the hash tag.
        longest: Seconds Redis may be silent.
        on_change: Told with True or False when Redis begins or ceases to answer.
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        server: str,
        longest: float = LONGEST,
        on_change: Callable[[bool], None] = lambda _answers: None,
    ) -> None:
        # No retry and no time-out of its own: the link judges silence, for all commands at once. RESP2, because with
        # RESP3 redis-py 8 uses an idle connection that Redis has closed: a restart would look like an outage.
        pool = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, decode_responses=True, retry=Retry(NoBackoff(), 0), protocol=2
        )
        self._tag = "{" + server + "}:"
        # A decision about nobody, which keeps something: it shows all that decisions need.
        keys, rules, bucket = (self._tag + "look", self._tag + "looked"), (0, 0, 0, 0, 1, ""), (1, 1000, 9, 0)
        look = ("EVALSHA", _HASHES[ADMISSION], len(keys), *keys, *rules, *bucket)
        self._link = Link(Redis(connection_pool=pool), look=look, longest=longest, on_change=on_change)

    async def read(self, names: Sequence[str]) -> list[str | None]:
        """Return the texts in one round trip."""
        if not names:
            return []
        found = await self._link.ask("MGET", *(self._tag + name for name in names))
        return [text if isinstance(text, str) else None for text in found]

    async def write(self, name: str, text: str, seconds: float | None = None) -> None:
        """Keep `text`; Redis ends it."""
        end = () if seconds is None else ("PX", max(1, round(seconds * 1000)))
        await self._link.ask("SET", self._tag + name, text, *end)

    async def remove(self, name: str) -> None:
        """Forget `name`."""
        await self._link.ask("DEL", self._tag + name)

    async def names(self, prefix: str) -> list[str]:
        """Walk all names with this prefix."""
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in self._tag + prefix) + "*"
        found: set[str] = set()
        cursor = 0
        while True:
            cursor, some = await self._link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            found.update(name.removeprefix(self._tag) for name in some)
            if cursor == 0:
                return sorted(found)

    async def admit(self, revocations: Sequence[str], conduct: Conduct | None, buckets: Sequence[Bucket]) -> Decision:
        """Decide by the first script of `decisions.lua`."""
        keys = (*(bucket.name for bucket in buckets), *revocations)
        return await self._decide(ADMISSION, conduct or _NOBODY, keys, [len(buckets), *_numbers(buckets)], buckets)

    async def take(self, conduct: Conduct, buckets: Sequence[Bucket], budget: Budget | None) -> Decision:
        """Decide by the second."""
        keys = ("budget:" if budget is None else budget.name, *(bucket.name for bucket in buckets))
        given = [0, 0] if budget is None else [budget.units, budget.cost]
        return await self._decide(CALL, conduct, keys, [*given, *_numbers(buckets)], buckets)

    async def _decide(
        self, script: str, conduct: Conduct, keys: Sequence[str], given: Sequence[int], buckets: Sequence[Bucket]
    ) -> Decision:
        names = [self._tag + name for name in (conduct.name, *keys)]
        rules = conduct.escalation
        shared = (rules.refusals, rules.window, rules.first, rules.longest, rules.decay, conduct.who)
        found = await self._link.ask("EVALSHA", _HASHES[script], len(names), *names, *shared, *given)
        index, wait, suspended, now = found
        return Decision(buckets[index - 1].limit if index > 0 else _REFUSING[index], wait, suspended, now)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()


def _numbers(buckets: Sequence[Bucket]) -> list[int]:
    """Return what the scripts need to know of each bucket."""
    return [number for bucket in buckets for number in (bucket.interval, bucket.burst, int(bucket.own))]
