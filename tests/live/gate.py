"""Where the tool `hold` waits: a test sees which calls run, and lets them go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.live.peers import Peer, Reply
from tests.live.project import DEADLINE


class Gate:
    """A port to which every running `hold` is connected."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()

    async def arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a call until it, or this test, hangs up."""
        async with self._changed:
            self._writers.add(writer)
            self._changed.notify_all()
        await reader.read()
        async with self._changed:
            self._writers.discard(writer)
            self._changed.notify_all()
        writer.close()

    @property
    def running(self) -> int:
        """Calls that run now."""
        return len(self._writers)

    async def holds(self, count: int) -> None:
        """Wait until that many calls run."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: self.running == count)

    async def open(self) -> None:
        """Let all of them go."""
        for writer in list(self._writers):
            writer.write_eof()
        await self.holds(0)

    async def rush(self, count: int, peer: Peer, admitted: int) -> tuple[list[asyncio.Task[Reply]], list[Reply]]:
        """Call `hold` as often at once; return the calls that run, once all others are answered."""
        expected = self.running + admitted
        calls = [asyncio.create_task(peer.call("hold", {"port": self.port})) for _ in range(count)]
        refused = await first(calls, count - admitted)
        await self.holds(expected)
        return [call for call in calls if not call.done()], refused


async def first(calls: list[asyncio.Task[Reply]], count: int) -> list[Reply]:
    """Return the answers of those that are answered first."""
    async with asyncio.timeout(DEADLINE):
        while len(done := [call.result() for call in calls if call.done()]) < count:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    return done


@asynccontextmanager
async def gate() -> AsyncIterator[Gate]:
    """Listen; in the end nothing is held."""
    found = Gate()
    server = await asyncio.start_server(found.arrive, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found
        await found.open()


async def stays(outcome: str, send: Callable[[], Awaitable[Reply]], times: int = 10) -> bool:
    """Tell whether that is what comes back every time."""
    return {(await send()).outcome for _ in range(times)} == {outcome}
