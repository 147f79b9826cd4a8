"""State shared by all replicas, in Redis (`redis://…`)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import anyio
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mcp_chassis.state.store import StoreDown

TIMEOUT: Final = 0.1
"""Seconds that Redis may stay silent."""
_LONGEST: Final = 0.25
"""Seconds a command may take with connecting and one more try: a call never waits longer for a decision (L9)."""
_CONNECTIONS: Final = 64
"""More would not be faster: Redis answers one after another."""

_Result = TypeVar("_Result")


class RedisStore:
    """Texts in Redis, all under one hash tag, so that a cluster keeps a server's state on one node.

    Args:
        url: `redis://` or `rediss://`.
        server: The server's name; it becomes the hash tag.
    """

    shared = True

    def __init__(self, url: str, *, server: str) -> None:
        # Blocking: a burst of requests waits for a connection, within its time, and does not fail for want of one.
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_LONGEST,
            decode_responses=True,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 1),
        )
        self._redis = Redis(connection_pool=self._pool)
        self._tag = "{" + server + "}:"

    async def read(self, names: Sequence[str]) -> list[str | None]:
        """Return the texts in one round trip."""
        found = await _answer(self._redis.mget([self._tag + name for name in names]))
        return [text if isinstance(text, str) else None for text in found]

    async def write(self, name: str, text: str, seconds: float | None = None) -> None:
        """Keep `text`; Redis ends it."""
        milliseconds = None if seconds is None else max(1, round(seconds * 1000))
        await _answer(self._redis.set(self._tag + name, text, px=milliseconds))

    async def remove(self, name: str) -> None:
        """Forget `name`."""
        await _answer(self._redis.delete(self._tag + name))

    async def names(self, prefix: str) -> list[str]:
        """Walk all names with this prefix."""
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in self._tag + prefix) + "*"

        async def walk() -> list[str]:
            return [name.removeprefix(self._tag) async for name in self._redis.scan_iter(pattern, count=500)]

        return sorted(await _answer(walk()))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._pool.disconnect()


async def _answer(command: Awaitable[_Result]) -> _Result:
    """Await a command, telling every way of failing apart from none."""
    try:
        with anyio.fail_after(_LONGEST):
            return await command
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreDown(type(error).__name__) from None
