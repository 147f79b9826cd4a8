"""A server behind the edges that says what it received, and streams events at a known pace.

It speaks plain HTTP/1.1 on a raw socket and never sends `X-Accel-Buffering`: that header hides a buffering edge.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

GAP = 0.15
"""Seconds between two events, far above the jitter of a busy machine."""

DEADLINE = 20.0
"""Seconds after which a test gives up waiting for something that should have happened."""


@dataclass(frozen=True)
class Received:
    """One request as it arrived: nothing decoded, nothing merged."""

    connection: int
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: str

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class StubServer:
    """Runs in a thread of its own, so that its clock is the test's clock.

    A body `{"events": n}` is answered with n events that carry the time they were sent. `{"silence": s}` sends one
    event, waits s seconds and sends another. `{"flood": true}` sends without an end. Everything else is echoed as
    JSON. `"delay": s` comes before each.
    """

    def __init__(self) -> None:
        self.port = 0
        self.received: list[Received] = []
        self.abandoned = threading.Event()
        """Set when a connection ended while its answer was still being written."""
        self._arrival = threading.Condition()
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0)).result(DEADLINE)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop()).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    def wait_for(self, count: int) -> None:
        """Wait until this many requests have arrived since the start."""
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self.received) >= count, DEADLINE):
                raise TimeoutError(f"{len(self.received)} of {count} requests arrived")

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        number = self._connections
        try:
            while True:
                request = await _read(reader, number)
                with self._arrival:
                    self.received.append(request)
                    self._arrival.notify_all()
                await self._answer(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the edge closed the connection
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wish = json.loads(request.body) if request.body.startswith("{") else {}
        left = asyncio.ensure_future(reader.read(1))
        try:
            await _stay(left, wish.get("delay", 0))
            if "events" in wish:
                await _stream(writer, [GAP] * (wish["events"] - 1), left)
            elif "flood" in wish:
                await _flood(writer, left)
            elif "silence" in wish:
                await _stream(writer, [wish["silence"]], left)
            else:
                await _echo(writer, request)
        finally:
            if left.done():
                self.abandoned.set()
            left.cancel()
            await asyncio.wait([left])


async def _stay(left: asyncio.Future[bytes], seconds: float) -> None:
    """Wait, unless the client leaves first."""
    await asyncio.wait([left], timeout=seconds)
    if left.done():
        raise ConnectionResetError("the client left")


async def _echo(writer: asyncio.StreamWriter, request: Received) -> None:
    body = json.dumps(asdict(request)).encode()
    # An id of its own: the edge must not let a second one out.
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-ID: from-the-server\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, pauses: list[float], left: asyncio.Future[bytes]) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for pause in [0.0, *pauses]:
        await _stay(left, pause)
        event = f"data: {time.monotonic()}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _flood(writer: asyncio.StreamWriter, left: asyncio.Future[bytes]) -> None:
    """Fill every buffer on the way, and then wait."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        drained: asyncio.Future[Any] = asyncio.ensure_future(writer.drain())
        await asyncio.wait({drained, left}, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            drained.cancel()
        await _stay(left, 0)


async def _read(reader: asyncio.StreamReader, connection: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, version = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    sizes = {name.lower(): value for name, value in headers}
    if sizes.get("transfer-encoding") == "chunked":
        body, trailers = await _read_chunks(reader)
        headers += trailers
    else:
        body = await reader.readexactly(int(sizes.get("content-length", 0)))
    return Received(connection, method, target, version, headers, body.decode("latin-1"))


async def _read_chunks(reader: asyncio.StreamReader) -> tuple[bytes, list[tuple[str, str]]]:
    """Return the body and the trailers: a server that merges those into the headers exists."""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readuntil(b"\r\n")
    trailers = []
    while (line := (await reader.readuntil(b"\r\n")).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        trailers.append((name, value.strip()))
    return body, trailers
