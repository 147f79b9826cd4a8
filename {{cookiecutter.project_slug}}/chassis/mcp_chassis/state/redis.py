"""State shared by all replicas, in Redis (`redis://…`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mcp_chassis.state.link import CONNECTIONS, Link
from mcp_chassis.state.store import Bucket, Budget, Conduct, Decision, Escalation, Refusing

LONGEST: Final = 0.03
"""Seconds of silence before a call goes on without Redis; with a key kept there it asks thrice, in 100 ms (L9)."""

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
        self._redis = Redis(connection_pool=pool)
        self._tag = "{" + server + "}:"
        # A decision about nobody, which keeps something: it shows all that decisions need.
        keys, rules, bucket = (self._tag + "look", self._tag + "looked"), (0, 0, 0, 0, 1, ""), (1, 1000, 9, 0)
        look = ("EVALSHA", _HASHES[ADMISSION], len(keys), *keys, *rules, *bucket)
        self._link = Link(self._redis, look=look, longest=longest, on_change=on_change)
        self._link.use(ADMISSION, CALL)

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
