"""Servers that are told to stop while clients of both eras wait, directly and behind both edges (S3)."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.chassis.client import (
    BOTH,
    DEADLINE,
    ERAS,
    EVENTS,
    INTRODUCTION,
    JSON,
    Client,
    Connection,
    Era,
    Response,
    connect,
    exchange,
    raw,
)
from tests.live.edges import CONFIGS, Edge, running
from tests.live.gate import Gate
from tests.live.project import Line, Project, ServerProcess

WAYS: Final = ("direct", *CONFIGS)
KINDS: Final[list[tuple[Era, str]]] = [(era, accept) for era in ERAS for accept in (JSON, EVENTS, BOTH)]
"""Every kind of client, by era and `Accept`."""
SHAPES: Final[dict[tuple[Era, str], str]] = {(era, BOTH): EVENTS for era in ERAS}
"""What a client gets that takes both, from a tool that reports progress."""
SHORT: Final = 1.0
"""Seconds of a drain that its deadline ends."""
STOPPING: Final = {"MCP_DRAIN_TIMEOUT": f"{SHORT:g}"}
LAST_RESORT: Final = 5.0
"""Seconds past the deadline, or past the second signal, after which the process is gone whatever holds it (S3)."""
BUSY: Final = 10.0
"""Seconds more on a machine that is busy with other tests; what holds a process here holds it much longer."""
NEVER: Final = 90.0
"""Seconds that are longer than any of these tests."""

IN_TIME: Final = SHORT + LAST_RESORT + BUSY

ways = pytest.mark.parametrize("way", WAYS)
eras = pytest.mark.parametrize("era", ERAS)


@dataclass
class Visitor(Client):
    """A client that comes in through an edge, if there is one."""

    edge: Edge | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """Open a connection and cut it at the end."""
        async with AsyncExitStack() as stack:
            if self.edge is None:
                yield await stack.enter_async_context(connect(self.port))
                return
            context = ssl.create_default_context(cafile=self.edge.certificate)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.edge.public, limit=2**24, ssl=context, server_hostname="localhost"
            )
            stack.callback(writer.transport.abort)
            yield Connection(reader, writer)

    async def request(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Response:
        """Send one message on a connection of its own and read the whole answer."""
        return await self.send(self.request_bytes(method, params, **more))

    async def send(self, data: bytes) -> Response:
        """Send bytes on a connection of their own and read the whole answer."""
        async with self.connected() as connection:
            await connection.send(data)
            return await connection.answer()

    async def begin(self, capabilities: dict[str, Any] | None = None) -> None:
        """Open a session where the era has them, as a client that is capable of something."""
        if self.era == "handshake":
            opened = await self.request("initialize", {**INTRODUCTION, "capabilities": capabilities or {}})
            assert opened.status == 200, opened
            self.session = opened.header("mcp-session-id")
            await self.request("notifications/initialized", id=None)

    def bodiless(self, method: str) -> bytes:
        """Return a GET or DELETE of the session."""
        return raw(method, [*self.head("", {}, EVENTS)])

    def listening(self) -> bytes:
        """Return what opens the era's stream of notifications."""
        if self.era == "handshake":
            return self.bodiless("GET")
        return self.request_bytes("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id="listen")


@dataclass(frozen=True)
class Site:
    """A server, and the edge in front of it if there is one."""

    server: ServerProcess
    edge: Edge | None = None

    @property
    def port(self) -> int:
        """Where the server listens."""
        return port_of(self.server)

    async def visitor(self, era: Era, capabilities: dict[str, Any] | None = None) -> Visitor:
        """Return a client that has begun as its era does."""
        visitor = Visitor(self.port, era, edge=self.edge)
        await visitor.begin(capabilities)
        return visitor

    async def probe(self, path: str) -> Response:
        """Ask what a probe asks, as it asks it: of the edge's internal listener if there is an edge."""
        return await exchange(self.edge.internal if self.edge else self.port, raw("GET", [], path=path))

    async def answered(self) -> None:
        """Wait until the server knows nobody who waits for an answer."""
        end = time.monotonic() + DEADLINE
        while b"\nmcp_requests_in_flight 0.0\n" not in (shown := (await self.probe("/metrics")).body):
            assert time.monotonic() < end, shown
            await asyncio.sleep(0.01)

    async def hold(self, held: Gate) -> list[asyncio.Task[Response]]:
        """Let each kind of client make a call, that of both types a call that reports progress; return when all run."""
        visitors = [(await self.visitor(era), accept) for era, accept in KINDS]
        calls = [
            asyncio.create_task(
                visitor.call(
                    "announce_and_hold" if accept == BOTH else "hold", {"port": held.port}, accept=accept, token="token"
                )
            )
            for visitor, accept in visitors
        ]
        await held.holds(len(calls))
        return calls


def port_of(server: ServerProcess) -> int:
    """Return where it listens."""
    return urlsplit(server.url).port or 0


@contextmanager
def site(way: str, project: Project, **given: str) -> Iterator[Site]:
    """Run a server, and an edge in front of it unless the way to it is direct."""
    with ServerProcess(project, given=given) as server:
        if way == "direct":
            yield Site(server)
            return
        with running(way, port_of(server)) as edge:
            yield Site(server, edge)


def tell(server: ServerProcess, *numbers: signal.Signals) -> None:
    """Send signals, SIGTERM unless others are named."""
    for number in numbers or (signal.SIGTERM,):
        os.kill(server.pid, number)


async def told(server: ServerProcess, event: str, **fields: Any) -> Line:
    """Wait for a line of the log."""
    return await asyncio.to_thread(lambda: server.wait_for(event, **fields))


async def drain(server: ServerProcess) -> Line:
    """Ask the server to stop, and return what it says when it has begun to."""
    tell(server)
    return await told(server, "drain_started")


async def rest_of(connection: Connection) -> bytes:
    """Read a chunked body to its end; one that is cut has none and raises `IncompleteReadError`."""
    body = b""
    while part := await connection.chunk():
        body += part
    return body


async def ended(server: ServerProcess) -> int:
    """Wait for the end of the process, and return its exit code."""
    return await asyncio.to_thread(server.wait)


def events(server: ServerProcess, *names: str) -> list[str]:
    """Return the lines of these events in their order."""
    return [line["event"] for line in server.lines if line["event"] in names]


def counts(line: Line) -> dict[str, int]:
    """Return what a line counts."""
    return {name: line[name] for name in ("calls", "interrupted", "cut") if name in line}


def refused(response: Response) -> bool:
    """Tell whether a request was told to come again, in each way in which a client can read it."""
    error = response.error()
    told = {name: error["data"][name] for name in ("reason", "retryAfterMs")}
    return (
        response.status == 503
        and response.header("retry-after") == "1"
        and (error["code"], told) == (-32010, {"reason": "draining", "retryAfterMs": 1000})
    )


def interrupted(response: Response) -> bool:
    """Tell whether a call was answered that it was ended before its time."""
    result = response.result()
    return (
        response.status == 200
        and result["isError"]
        and result["_meta"]["errorCode"] == "interrupted"
        and "because the server restarts" in response.text()
    )


@asynccontextmanager
async def in_time(seconds: float = IN_TIME) -> AsyncIterator[None]:
    """Judge that the body takes no longer."""
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < seconds, f"{took:.1f} s"
