"""A client on raw sockets that sends any bytes as a credential, in both eras."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

DEADLINE = 10.0
"""Seconds after which a test gives up waiting for something that should have happened."""

Era = Literal["handshake", "stateless"]
ERAS: tuple[Era, ...] = ("handshake", "stateless")
HANDSHAKE_VERSION = "2025-11-25"
STATELESS_VERSION = "2026-07-28"
Headers = Sequence[tuple[str, str | bytes]]

_META = "io.modelcontextprotocol/"
_INTRODUCTION = {
    "protocolVersion": HANDSHAKE_VERSION,
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


@dataclass(frozen=True)
class Answer:
    """One answer: every header as sent, the body with its chunks joined."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None; two of one name are an error."""
        found = [value for key, value in self.headers if key == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None

    def message(self) -> dict[str, Any]:
        """Return the one JSON-RPC answer."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def result(self) -> dict[str, Any]:
        """Return the JSON-RPC result."""
        found = self.message()["result"]
        assert isinstance(found, dict)
        return found

    def reason(self) -> str:
        """Return the word by which a refusal is named in the log."""
        found = self.message()["error"]["data"]["reason"]
        assert isinstance(found, str)
        return found

    def text(self) -> str:
        """Return the text of a tool's result."""
        return "\n".join(part["text"] for part in self.result()["content"])

    def without_ids(self) -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
        """Return what must be equal when two answers must not be told apart."""
        message = self.message()
        message["error"]["data"].pop("requestId")
        volatile = ("x-request-id", "date")
        return self.status, [pair for pair in self.headers if pair[0] not in volatile], message


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection and cut it at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def head(reader: asyncio.StreamReader) -> Answer:
    """Read the status line and the headers."""
    block = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
    status, *lines = block.decode("latin-1").strip().split("\r\n")
    pairs = [line.split(":", 1) for line in lines]
    return Answer(int(status.split()[1]), [(name.lower(), value.strip()) for name, value in pairs])


def _joined(chunks: bytes) -> bytes:
    body = b""
    while True:
        size, _, rest = chunks.partition(b"\r\n")
        if not (length := int(size, 16)):
            return body
        body, chunks = body + rest[:length], rest[length + 2 :]


def raw(method: str, headers: Headers, body: bytes = b"", *, path: str = "/mcp", host: str = "127.0.0.1") -> bytes:
    """Return a request as bytes, header values as they are."""
    given = [("Host", host), ("Connection", "close"), ("Content-Length", str(len(body))), *headers]
    lines = [f"{method} {path} HTTP/1.1".encode()]
    for name, value in given:
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def exchange(port: int, data: bytes) -> Answer:
    """Send one request on a connection of its own and read the whole answer."""
    async with connection(port) as (reader, writer):
        writer.write(data)
        answer = await head(reader)
        body = await asyncio.wait_for(reader.read(), DEADLINE)
        return replace(answer, body=_joined(body) if answer.header("transfer-encoding") == "chunked" else body)


@dataclass
class Peer:
    """Somebody who speaks one era with one server; each request has a connection of its own."""

    port: int
    era: Era
    headers: Headers = ()
    """Sent with every request, such as a credential."""
    session: str | None = None

    def claiming(self, *headers: tuple[str, str | bytes]) -> Peer:
        """Return the same peer, in the same session, with other credentials."""
        return replace(self, headers=headers)

    async def open(self) -> Answer:
        """Begin as the era does, and keep the session if there is one."""
        opened = await self.introduce()
        assert opened.status == 200, opened
        if self.era == "handshake":
            self.session = opened.header("mcp-session-id")
            done = await self.post("notifications/initialized", id=None)
            assert done.status == 202, done
        return opened

    async def introduce(self) -> Answer:
        """Send `initialize` or `server/discover`."""
        if self.era == "handshake":
            return await replace(self, session=None).post("initialize", _INTRODUCTION)
        return await self.post("server/discover")

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """Call a tool."""
        return await self.post("tools/call", {"name": tool, "arguments": dict(arguments or {})}, **more)

    async def tools(self) -> list[str]:
        """Return the names in the tool list."""
        return [tool["name"] for tool in (await self.post("tools/list")).result()["tools"]]

    async def post(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """Send one message and read the answer."""
        return await exchange(self.port, self.request(method, params, **more))

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        id: object = 1,
        replacing: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        """Return one request as it goes over the wire; `replacing` overwrites headers of the era."""
        given = dict(params or {})
        if self.era == "stateless":
            version = {f"{_META}protocolVersion": STATELESS_VERSION, f"{_META}clientCapabilities": {}}
            given["_meta"] = version
        message = {"jsonrpc": "2.0", "method": method, "params": given} | ({} if id is None else {"id": id})
        return raw("POST", self._head(method, given, replacing or {}), body or json.dumps(message).encode())

    def _head(self, method: str, params: Mapping[str, Any], replacing: Mapping[str, str]) -> Headers:
        own = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.era == "stateless":
            own |= {"MCP-Protocol-Version": STATELESS_VERSION, "Mcp-Method": method}
            own |= {"Mcp-Name": params["name"]} if method == "tools/call" else {}
        elif method != "initialize":
            own |= {"MCP-Protocol-Version": HANDSHAKE_VERSION}
        own |= {"Mcp-Session-Id": self.session} if self.session else {}
        return [*(own | dict(replacing)).items(), *self.headers]

    async def get(self) -> Answer:
        """Ask for the standalone stream, and read no further than its head."""
        async with connection(self.port) as (reader, writer):
            writer.write(self._bodiless("GET"))
            answer = await head(reader)
            if answer.header("content-length") is None:
                return answer
            return replace(answer, body=await asyncio.wait_for(reader.read(), DEADLINE))

    async def delete(self) -> Answer:
        """End the session."""
        return await exchange(self.port, self._bodiless("DELETE"))

    def _bodiless(self, method: str) -> bytes:
        own = [("Accept", "text/event-stream"), ("MCP-Protocol-Version", HANDSHAKE_VERSION)]
        own += [("Mcp-Session-Id", self.session)] if self.session else []
        return raw(method, [*own, *self.headers])


@dataclass
class Browser:
    """A page of some origin; what it may read is what CORS says."""

    port: int
    origin: str
    seen: list[Answer] = field(default_factory=list)

    async def preflight(self, method: str, headers: str, path: str = "/mcp") -> Answer:
        """Ask whether a request with these headers may be sent."""
        asked = [("Origin", self.origin), ("Access-Control-Request-Method", method)]
        asked += [("Access-Control-Request-Headers", headers)]
        return await exchange(self.port, raw("OPTIONS", asked, path=path))
