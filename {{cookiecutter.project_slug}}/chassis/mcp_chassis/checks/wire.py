"""What a client of either era says to a server, what came back, and when each piece came.

Plain HTTP on purpose: a check that speaks through an SDK sees what that SDK makes of the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import anyio
import httpx2
from pydantic_core import from_json

from mcp_chassis.checks import Unseen

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
BOTH: Final = f"{JSON}, {EVENTS}"
_CLIENT: Final = {"name": "mcp-chassis-checks", "version": "1"}
_META: Final = "io.modelcontextprotocol/"
_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_MOST_PAGES: Final = 100
_MOST_BYTES: Final = 8 * 1024 * 1024
"""Of one answer; what is longer is no answer that a client would read."""
_AFTERWARDS: Final = 0.2
"""Seconds that a stream may stay open after its answer."""
_ids = count(1)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Era:
    """One of the two ways to speak MCP.

    Args:
        name: `handshake` or `stateless`.
        version: The protocol version it is asked for.
    """

    name: str
    version: str


HANDSHAKE: Final = Era("handshake", "2025-11-25")
STATELESS: Final = Era("stateless", "2026-07-28")
ERAS: Final = (HANDSHAKE, STATELESS)


@dataclass(slots=True)
class Reply:
    """One HTTP answer.

    Args:
        status: HTTP status.
        headers: Its headers.
        body: All of it.
        messages: The JSON-RPC messages in it.
        arrivals: Seconds after sending at which each of these came.
    """

    status: int
    headers: httpx2.Headers
    body: bytearray = field(default_factory=bytearray)
    messages: list[Json] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    @property
    def answer(self) -> Json:
        """The message that is no notification; empty if none came."""
        return next((message for message in self.messages if "id" in message and "method" not in message), {})

    @property
    def result(self) -> Json:
        """What was asked for; empty if it was not given."""
        result = self.answer.get("result")
        return result if isinstance(result, dict) else {}

    @property
    def kind(self) -> str:
        """The media type."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip()

    @property
    def told(self) -> str:
        """The answer in a few words, for a report."""
        error = self.answer.get("error")
        if isinstance(error, dict):
            return f"HTTP {self.status}, error {error.get('code')}: {error.get('message')}"
        if 300 <= self.status < 400 and (place := self.headers.get("location")):
            return f"HTTP {self.status}, redirected to {place.partition('?')[0]}"
        cut = f", cut after {_MOST_BYTES >> 20} MiB" if len(self.body) > _MOST_BYTES else ""
        return f"HTTP {self.status}, {self.kind or 'no body'}{cut}"


class Conversation:
    """Messages to one server in one era.

    Args:
        client: Carries them.
        url: The endpoint.
        era: How it is spoken to.
        headers: Further headers, such as the credential.
        patience: Seconds that one answer may take, to its end.
    """

    def __init__(
        self, client: httpx2.AsyncClient, url: str, era: Era, headers: Mapping[str, str], *, patience: float
    ) -> None:
        self._client = client
        self._url = url
        # A compressed answer could grow without bound, and arrives in lumps.
        self._headers = {"Accept-Encoding": "identity", **headers}
        self._patience = patience
        self.era = era

    @property
    def headers(self) -> Mapping[str, str]:
        """What every message carries: credential, session, negotiated version."""
        return self._headers

    @property
    def session(self) -> str | None:
        """The session that the server opened."""
        return self._headers.get("Mcp-Session-Id")

    async def open(self) -> Reply:
        """Introduce the client, and keep the session that the server may open."""
        if self.era is STATELESS:
            return await self.request("server/discover")
        params = {"protocolVersion": self.era.version, "capabilities": {}, "clientInfo": _CLIENT}
        reply = await self.request("initialize", params)
        if reply.result:
            self._headers["MCP-Protocol-Version"] = str(reply.result.get("protocolVersion", self.era.version))
            if session := reply.headers.get("mcp-session-id"):
                self._headers["Mcp-Session-Id"] = session
            await self.request("notifications/initialized", notification=True)
        return reply

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        accept: str | None = BOTH,
        notification: bool = False,
    ) -> Reply:
        """Send one message and read its whole answer."""
        given = dict(params or {})
        headers = {"Content-Type": JSON, **self._headers}
        if self.era is STATELESS:
            headers |= {"MCP-Protocol-Version": self.era.version, "Mcp-Method": method}
            if method in _NAMED_BY:
                headers["Mcp-Name"] = str(given[_NAMED_BY[method]])
            own = {"protocolVersion": self.era.version, "clientCapabilities": {}, "clientInfo": _CLIENT}
            given["_meta"] = {**given.get("_meta", {}), **{f"{_META}{name}": value for name, value in own.items()}}
        body: Json = {"jsonrpc": "2.0", "method": method, "params": given}
        if not notification:
            body["id"] = next(_ids)
        return await self.send(body, headers, accept)

    async def send(self, body: object, headers: Mapping[str, str], accept: str | None) -> Reply:
        """Send any JSON body. Raises `TimeoutError` if no answer comes in time."""
        request = self._client.build_request("POST", self._url, json=body, headers=dict(headers))
        request.headers.pop("accept", None)
        if accept is not None:
            request.headers["Accept"] = accept
        given = body.get("id") if isinstance(body, dict) else None
        reply: Reply | None = None
        with anyio.move_on_after(self._patience) as scope:
            begun = time.monotonic()
            response = await self._client.send(request, stream=True)
            reply = Reply(response.status_code, response.headers)
            try:
                async for _ in _reading(reply, response, begun):
                    if given is not None and reply.answer.get("id") == given:
                        scope.deadline = min(scope.deadline, anyio.current_time() + _AFTERWARDS)
            finally:
                await response.aclose()
        if reply is None:
            raise TimeoutError(f"nothing within {self._patience:.0f} s")
        if scope.cancelled_caught and not reply.answer:
            raise TimeoutError(f"{reply.told}, and no end within {self._patience:.0f} s")
        return reply

    async def pages(self, method: str, key: str) -> list[Json]:
        """Return all items of a list, or none where the server has no such list.

        Raises:
            Unseen: If it answers with something else, or never stops.
        """
        items: list[Json] = []
        cursor: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            reply = await self.request(method, cursor)
            if reply.answer.get("error", {}).get("code") == -32601:
                return items
            listed = reply.result.get(key)
            if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
                raise Unseen(f"{method}: {reply.told}, and no list of {key}", "look at the server's log")
            items += listed
            if not (following := reply.result.get("nextCursor")):
                return items
            cursor = {"cursor": str(following)}
        raise Unseen(f"{method} has more than {_MOST_PAGES} pages", "the server's cursors lead in a circle")

    async def close(self) -> None:
        """End the session, if there is one."""
        if self.session is not None:
            await self._client.delete(self._url, headers=self._headers)


async def _reading(reply: Reply, response: httpx2.Response, begun: float) -> AsyncIterator[None]:
    """Fill `reply`, piece by piece."""
    pending = b""
    async for chunk in response.aiter_bytes():
        reply.body += chunk
        if len(reply.body) > _MOST_BYTES:
            return
        if reply.kind == EVENTS:
            *events, pending = (pending + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
                _keep(reply, b"\n".join(lines), begun)
        yield
    if reply.kind == JSON:
        _keep(reply, bytes(reply.body), begun)


def _keep(reply: Reply, text: bytes, begun: float) -> None:
    try:
        message = from_json(text)
    except ValueError:
        return
    if isinstance(message, dict):
        reply.messages.append(message)
        reply.arrivals.append(time.monotonic() - begun)
