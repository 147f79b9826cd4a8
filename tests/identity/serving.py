"""Servers under test on real loopback sockets, with a count of what reached MCP code."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.types import ASGIApp

from mcp_chassis import Server
from mcp_chassis.app import build_app
from mcp_chassis.http.boundary import bounded_connection
from mcp_chassis.request import Caller
from mcp_chassis.settings import Settings
from tests.identity.wire import DEADLINE, Era, Headers, Peer
from tests.support.limits import UNLIMITED

PUBLIC = "https://notes.example.com"
METADATA = f"{PUBLIC}/.well-known/oauth-protected-resource/mcp"
TOOLS = ["discard", "ping", "read", "whoami"]


@dataclass
class Log:
    """What a server wrote."""

    stream: io.StringIO = field(default_factory=io.StringIO)

    def text(self) -> str:
        """Return all of it."""
        return self.stream.getvalue()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines as objects, those of one event if it is named."""
        found = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in found if event in (None, line["event"])]

    def reasons(self) -> set[str]:
        """Return why requests were refused."""
        return {line["reason"] for line in self.lines("request_refused")}


def settings(**given: Any) -> Settings:
    """Return settings that need no environment; `given` replaces single fields."""
    return Settings.model_validate({"tool_timeout": 30, "public_url": PUBLIC} | UNLIMITED | given)


def notes() -> Server:
    """Return a server with one tool for each demand: none, one scope, two scopes."""
    server = Server("notes")

    @server.tool()
    async def whoami(caller: Caller) -> dict[str, Any]:
        """Tell who calls."""
        return {"id": caller.id, "tenant": caller.tenant, "scopes": sorted(caller.scopes)}

    @server.tool(scopes=["notes:read"])
    async def read() -> str:
        """Read a note."""
        return "a note"

    @server.tool(scopes=["notes:write", "notes:read"])
    async def discard() -> str:
        """Throw a note away."""
        return "thrown away"

    return server


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signals and without the waits of its shutdown."""

    async def stop(self) -> None:
        """Close the listener, cut what is open, end the lifespan."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            vars(connection)["transport"].abort()
        if self.server_state.tasks:
            _, pending = await asyncio.wait(self.server_state.tasks, timeout=1)
            for task in pending:
                task.cancel()
        await asyncio.wait_for(self.lifespan.shutdown(), DEADLINE)


@asynccontextmanager
async def listening(app: ASGIApp, *, port: int = 0, **config: Any) -> AsyncIterator[int]:
    """Serve `app` on a loopback port, a free one by default; yield the port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    known = {"ws": "none", "log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
    process = _Uvicorn(uvicorn.Config(app, **(known | config)))
    process.config.load()
    process.lifespan = process.config.lifespan_class(process.config)
    try:
        await process.startup(sockets=[listener])
        try:
            yield listener.getsockname()[1]
        finally:
            await process.stop()
    finally:
        listener.close()


@dataclass
class Served:
    """A server that listens."""

    port: int
    server: Server
    handled: list[str] = field(default_factory=list)
    """The methods of all messages that reached MCP code."""

    @property
    def sessions(self) -> int:
        """Sessions that the SDK keeps now."""
        return len(vars(self.server.session_manager)["_server_instances"])

    def peer(self, era: Era, headers: Headers = ()) -> Peer:
        """Return a client that has not begun yet."""
        return Peer(self.port, era, headers)

    async def opened(self, era: Era, headers: Headers = ()) -> Peer:
        """Return a client that is ready for calls."""
        peer = self.peer(era, headers)
        await peer.open()
        return peer


@asynccontextmanager
async def serving(given: Settings, server: Server | None = None) -> AsyncIterator[Served]:
    """Serve as `serve` does; yield what listens."""
    server = server or notes()
    server.prepare(given)
    handled: list[str] = []

    async def counting(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        handled.append(ctx.method)
        return await call_next(ctx)

    server.middleware.insert(0, counting)
    app = build_app(server, given)
    async with listening(
        app,
        http=bounded_connection(given),
    ) as port:
        yield Served(port, server, handled)


def bearer(token: str) -> tuple[str, str]:
    """Return the header that carries `token`."""
    return "Authorization", f"Bearer {token}"


def challenge(**parameters: str) -> str:
    """Return the `WWW-Authenticate` of a server with an issuer."""
    found = {"realm": "notes", **parameters, "resource_metadata": METADATA}
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in found.items())
