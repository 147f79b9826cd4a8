"""A small HTTP/1.1 client on raw sockets: it sends any bytes and hides nothing of the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

DEADLINE = 10.0
"""Seconds after which a test gives up waiting for something that should have happened."""

Era = Literal["handshake", "stateless"]
ERAS: tuple[Era, ...] = ("handshake", "stateless")
HANDSHAKE_VERSION = "2025-11-25"
STATELESS_VERSION = "2026-07-28"
BOTH = "application/json, text/event-stream"
JSON = "application/json"
EVENTS = "text/event-stream"

Headers = Sequence[tuple[str, str]]
_META = "io.modelcontextprotocol/"


@dataclass
class Response:
    """One answer: every header as sent, the body with its chunks joined."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None; two of one name are an error."""
        found = [value for key, value in self.headers if key == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def shape(self) -> str:
        """The content type without its parameters."""
        return (self.header("content-type") or "").split(";")[0]

    def events(self) -> list[dict[str, Any]]:
        """Return the JSON of every event in a stream."""
        blocks = self.body.replace(b"\r\n", b"\n").split(b"\n\n")
        lines = [line for block in blocks for line in block.split(b"\n") if line.startswith(b"data:")]
        return [json.loads(line[5:]) for line in lines if line[5:].strip()]

    def message(self) -> dict[str, Any]:
        """Return the one JSON-RPC answer, whatever shape it came in."""
        if self.shape != EVENTS:
            found = json.loads(self.body)
            assert isinstance(found, dict)
            return found
        answers = [event for event in self.events() if "method" not in event]
        assert len(answers) == 1, answers
        return answers[0]

    def error(self) -> dict[str, Any]:
        """Return the JSON-RPC error."""
        found = self.message()["error"]
        assert isinstance(found, dict)
        return found

    def result(self) -> dict[str, Any]:
        """Return the JSON-RPC result."""
        found = self.message()["result"]
        assert isinstance(found, dict)
        return found

    def text(self) -> str:
        """Return the text of a tool's result."""
        return "\n".join(part["text"] for part in self.result()["content"])


class Connection:
    """One TCP connection, read and written by hand.

    Reads wait in the task that asked: a task of their own, as `wait_for` makes it, would lose what was read already
    when the peer resets the connection right behind its answer.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; a peer that has gone is not our problem."""
        try:
            self.writer.write(data)
            await asyncio.wait_for(self.writer.drain(), DEADLINE)
        except ConnectionError:
            return

    async def head(self) -> Response:
        """Read the status line and the headers."""
        async with asyncio.timeout(DEADLINE):
            block = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = block.decode("latin-1").strip().split("\r\n")
        pairs = [line.split(":", 1) for line in lines]
        return Response(int(status.split()[1]), [(name.lower(), value.strip()) for name, value in pairs])

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty at its end."""
        async with asyncio.timeout(DEADLINE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self, *, bodiless: bool = False) -> Response:
        """Read one whole answer."""
        response = await self.head()
        length = response.header("content-length")
        if bodiless or response.status in (204, 304):
            return response
        if response.header("transfer-encoding") == "chunked":
            while data := await self.chunk():
                response.body += data
        else:
            async with asyncio.timeout(DEADLINE):
                response.body = await (self.reader.read() if length is None else self.reader.readexactly(int(length)))
        return response

    async def closed(self) -> bool:
        """Tell whether the server ends the connection without another byte."""
        try:
            return await asyncio.wait_for(self.reader.read(1), DEADLINE) == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    """Open a connection and cut it at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def raw(
    method: str, headers: Headers, body: bytes = b"", *, path: str = "/mcp", host: str | None = "127.0.0.1:8080"
) -> bytes:
    """Return a request as bytes; nothing is added but Host and Content-Length."""
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"Host: {host}"] if host is not None else []
    lines += [f"{name}: {value}" for name, value in headers]
    if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def exchange(port: int, data: bytes, *, bodiless: bool = False) -> Response:
    """Send one request on a connection of its own and read the answer."""
    async with connect(port) as connection:
        await connection.send(data)
        return await connection.answer(bodiless=bodiless)


def envelope(method: str, params: dict[str, Any] | None = None, *, id: object = 1) -> dict[str, Any]:
    """Return a JSON-RPC request; `id=None` makes it a notification."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if id is not None:
        body["id"] = id
    if params is not None:
        body["params"] = params
    return body


INTRODUCTION: dict[str, Any] = {
    "protocolVersion": HANDSHAKE_VERSION,
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1.0"},
}


@dataclass
class Client:
    """Speaks one era with one server; each request has a connection of its own."""

    port: int
    era: Era
    session: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    """Sent with every request, such as a credential."""

    async def open(self, accept: str | None = BOTH) -> Response | None:
        """Open a session where the era has them."""
        if self.era == "stateless":
            return None
        self.session = None
        opened = await self.request("initialize", INTRODUCTION, accept=accept)
        assert opened.status == 200, opened
        self.session = opened.header("mcp-session-id")
        done = await self.request("notifications/initialized", id=None)
        assert done.status == 202, done
        return opened

    def head(self, method: str, params: dict[str, Any], accept: str | None = BOTH) -> list[tuple[str, str]]:
        """Return the headers that the era wants."""
        wanted = [("Content-Type", "application/json"), *self.headers]
        wanted += [("Accept", accept)] if accept is not None else []
        if self.era == "handshake":
            wanted += [("Mcp-Session-Id", self.session)] if self.session else []
            return wanted + ([("MCP-Protocol-Version", HANDSHAKE_VERSION)] if method != "initialize" else [])
        wanted += [("MCP-Protocol-Version", STATELESS_VERSION), ("Mcp-Method", method)]
        name = params.get("uri" if method == "resources/read" else "name")
        return wanted + ([("Mcp-Name", name)] if isinstance(name, str) and "/" in method else [])

    def params(self, given: dict[str, Any] | None, token: str | None = None) -> dict[str, Any]:
        """Return `given` with what the era wants in `_meta`."""
        meta: dict[str, Any] = {} if token is None else {"progressToken": token}
        if self.era == "stateless":
            info = {"name": "tests", "version": "1.0"}
            meta |= {f"{_META}protocolVersion": STATELESS_VERSION, f"{_META}clientCapabilities": {}}
            meta |= {f"{_META}clientInfo": info}
        return {**(given or {}), **({"_meta": meta} if meta else {})}

    def request_bytes(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        id: object = 1,
        accept: str | None = BOTH,
        token: str | None = None,
        extra: Headers = (),
    ) -> bytes:
        """Return one request as it goes over the wire."""
        whole = self.params(params, token)
        body = json.dumps(envelope(method, whole if whole or params is not None else None, id=id)).encode()
        return raw("POST", [*self.head(method, whole, accept), *extra], body)

    async def request(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Response:
        """Send one message and read the whole answer."""
        return await exchange(self.port, self.request_bytes(method, params, **more))

    async def call(self, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> Response:
        """Call a tool."""
        return await self.request("tools/call", {"name": tool, "arguments": arguments or {}}, **more)

    async def introduce(self, **more: Any) -> Response:
        """Send what the era begins with: `initialize` or `server/discover`."""
        if self.era == "handshake":
            return await Client(self.port, self.era, headers=self.headers).request("initialize", INTRODUCTION, **more)
        return await self.request("server/discover", **more)
