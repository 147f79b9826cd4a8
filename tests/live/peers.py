"""Callers who send many messages at once, in either era, and read what each was told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2

from tests.live.curl import EVENTS, HANDSHAKE, STATELESS, Answer, Conversation, Era
from tests.live.fleet import Fleet
from tests.live.project import DEADLINE

OK: Final = "ok"
_HELLO: Final = {
    "protocolVersion": HANDSHAKE.version,
    "capabilities": {},
    "clientInfo": {"name": "peer", "version": "1"},
}


@dataclass(frozen=True)
class Reply:
    """What one message was answered, and when."""

    answer: Answer
    sent: float
    received: float

    @property
    def result(self) -> dict[str, Any]:
        """The result; empty if there is none."""
        return dict(self.answer.message.get("result", {})) if self.answer.body else {}

    @property
    def error(self) -> dict[str, Any]:
        """The JSON-RPC error; empty if there is none."""
        return dict(self.answer.message.get("error", {})) if self.answer.body else {}

    @property
    def meta(self) -> dict[str, Any]:
        """What a program reads of a refusal, from either channel."""
        return dict(self.error.get("data") or self.result.get("_meta", {}))

    @property
    def text(self) -> str:
        """What a model or a person reads of it."""
        return str(self.error.get("message") or self.result.get("content", [{}])[0].get("text", ""))

    @property
    def outcome(self) -> str:
        """`ok`, or the HTTP status and the word for what refused."""
        refused = self.error or self.result.get("isError")
        word = self.meta.get("reason") or self.meta.get("errorCode") or self.error.get("code")
        return f"{self.answer.status} {word}" if refused else OK

    @property
    def delay(self) -> float:
        """Seconds that it asks to wait."""
        return float(self.meta["retryAfterMs"]) / 1000


class Peer:
    """One caller's conversation with one replica."""

    def __init__(self, http: httpx2.AsyncClient, conversation: Conversation) -> None:
        self.http = http
        self.conversation = conversation

    async def send(self, method: str, params: Mapping[str, Any] | None = None, **how: Any) -> Reply:
        """Send one message; `how` is that of `Conversation.message`."""
        headers, body = self.conversation.message(method, params, **how)
        return await self._exchange("POST", headers, body)

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **how: Any) -> Reply:
        """Call a tool."""
        return await self.send("tools/call", {"name": tool, "arguments": dict(arguments or {})}, **how)

    async def initialize(self) -> Reply:
        """Ask for another session."""
        return await Peer(self.http, Conversation(self.conversation.url, HANDSHAKE)).send("initialize", _HELLO)

    async def open(self) -> Peer:
        """Return this caller in a conversation of its own; in the handshake era that opens a session."""
        if self.conversation.era is STATELESS:
            return self
        reply = await self.initialize()
        assert reply.outcome == OK, reply
        session = {"Mcp-Session-Id": reply.answer.headers["mcp-session-id"], "MCP-Protocol-Version": HANDSHAKE.version}
        peer = Peer(self.http, replace(self.conversation, session=session))
        await peer.send("notifications/initialized", notification=True)
        return peer

    async def end(self) -> Reply:
        """End the session."""
        return await self._exchange("DELETE", dict(self.conversation.session), "")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Reply]:
        """Open the stream of this era; yield the beginning of the answer, or the refusal."""
        headers, body, method = {"Accept": EVENTS, **self.conversation.session}, "", "GET"
        if self.conversation.era is STATELESS:
            listen = {"notifications": {"toolsListChanged": True}}
            headers, body = self.conversation.message("subscriptions/listen", listen)
            method = "POST"
        sent = time.monotonic()
        async with self.http.stream(method, self.conversation.url, headers=headers, content=body) as stream:
            text = "" if stream.status_code == 200 else (await stream.aread()).decode()
            yield Reply(Answer(stream.status_code, dict(stream.headers), text), sent, time.monotonic())

    async def _exchange(self, method: str, headers: Mapping[str, str], body: str) -> Reply:
        sent = time.monotonic()
        response = await self.http.request(method, self.conversation.url, headers=headers, content=body)
        return Reply(Answer(response.status_code, dict(response.headers), response.text), sent, time.monotonic())


class Crowd:
    """Everybody who calls in one test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def arrive(self, fleet: Fleet, caller: str, era: Era, *, address: str | None = None) -> list[Peer]:
        """Let a caller come to every replica, from a source address; no message is sent yet."""
        transport = httpx2.AsyncHTTPTransport(
            local_address=address, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        )
        http = httpx2.AsyncClient(
            headers=fleet.keys.headers(caller), transport=transport, timeout=DEADLINE, trust_env=False
        )
        await self._stack.enter_async_context(http)
        return [Peer(http, Conversation(url, era)) for url in fleet.urls]

    async def join(self, fleet: Fleet, caller: str, era: Era) -> list[Peer]:
        """Let a caller begin a conversation with every replica."""
        return [await peer.open() for peer in await self.arrive(fleet, caller, era)]


async def burst(peers: Sequence[Peer], count: int, send: Callable[[Peer], Awaitable[Reply]]) -> list[Reply]:
    """Send as many messages at once, in turn through the peers."""
    return list(await asyncio.gather(*(send(peers[number % len(peers)]) for number in range(count))))


def tally(replies: Iterable[Reply]) -> dict[str, int]:
    """Count the outcomes."""
    return dict(Counter(reply.outcome for reply in replies))


async def until(moment: float) -> None:
    """Return at a moment of the monotonic clock, never before."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def becomes(outcome: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    """Send until that is what comes back."""
    end = time.monotonic() + DEADLINE
    while (reply := await send()).outcome != outcome:
        assert time.monotonic() < end, reply
        await asyncio.sleep(0.01)
    return reply
