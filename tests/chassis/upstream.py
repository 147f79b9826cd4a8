"""A service on loopback that answers as a test says, and remembers what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from mcp_chassis import Server, downstream
from mcp_chassis.downstream import Breaker
from tests.support.inside import listening


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """What the service does next, and what it was asked."""

    port: int = 0
    statuses: list[int] = field(default_factory=list)
    """Answers to the next requests; 200 afterwards, and 0 cuts the connection."""
    hangs: bool = False
    streams: bool = False
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where it listens, with what must never be shown."""
        return f"http://user:s3cret-pass@127.0.0.1:{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(Seen(scope["method"], scope["path"], headers, await _body(receive)))
        self.arrived.set()
        if self.hangs:
            await _departure(receive)
            self.left.set()
            return
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            cut: Any = send
            cut.__self__.transport.abort()
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-answer", b"yes")]})
        await send({"type": "http.response.body", "body": b"first,", "more_body": True})
        if self.streams:
            await self.more.wait()
        await send({"type": "http.response.body", "body": b"last"})


async def _body(receive: Receive) -> bytes:
    parts: bytes = b""
    while True:
        message: Message = await receive()
        parts += message.get("body", b"")
        if not message.get("more_body"):
            return parts


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """Serve an upstream for as long as the context lasts."""
    service = Upstream()
    async with listening(service, http="h11", lifespan="off") as port:
        service.port = port
        yield service


def client(service: Upstream, **given: Any) -> httpx2.AsyncClient:
    """Return a client of it whose breaker stays out of the way unless one is given."""
    options: dict[str, Any] = {"breaker": Breaker("crm", minimum=10_000), "timeout": 2, "trust_env": False} | given
    return downstream.client("crm", base_url=service.url, **options)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next try follow at once: how long it waits is a test of its own."""

    async def at_once(seconds: float, *_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("stamina._core._smart_sleep", at_once)


def sample(name: str) -> float:
    """Return a number of the service's."""
    return REGISTRY.get_sample_value(name, {"service": "crm"}) or 0


def calling(crm: httpx2.AsyncClient) -> Server:
    """Return a server whose tool calls the service once for each path it is given."""
    server = Server("tests")

    @server.tool()
    async def fetch(paths: list[str], method: str = "GET") -> list[int]:
        """Call the service."""
        return [(await crm.request(method, path)).status_code for path in paths]

    return server
