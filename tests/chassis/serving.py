"""Real servers on loopback: the chassis as `serve` runs it, and the stock SDK beside it for comparison."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from mcp_chassis import Server
from mcp_chassis.app import build_app
from mcp_chassis.auth import Authenticate, admit_everyone
from mcp_chassis.http.boundary import bounded_connection
from mcp_chassis.settings import Settings
from tests.chassis.client import DEADLINE, Client, Era
from tests.support.limits import UNLIMITED

SMALL_BUFFER = 16_384
"""Bytes that the kernel keeps for a client that does not read; the default hides megabytes."""


def settings(**given: Any) -> Settings:
    """Return settings that need no environment; `given` replaces single fields."""
    return Settings.model_validate(UNLIMITED | {"tool_timeout": 30, "public_url": "https://notes.example.com"} | given)


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signals and without the waits of its shutdown."""

    async def stop(self) -> None:
        """Close the listener, cut what is open, end the lifespan."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            transport = vars(connection)["transport"]
            transport.abort()
        if self.server_state.tasks:
            _, pending = await asyncio.wait(self.server_state.tasks, timeout=1)
            for task in pending:
                task.cancel()
        await asyncio.wait_for(self.lifespan.shutdown(), DEADLINE)


@asynccontextmanager
async def listening(app: ASGIApp, **config: Any) -> AsyncIterator[int]:
    """Serve `app` on a free loopback port with uvicorn; yield the port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    listener.bind(("127.0.0.1", 0))
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


@asynccontextmanager
async def chassis(
    server: Server,
    given: Settings | None = None,
    *,
    authenticate: Authenticate = admit_everyone,
    wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> AsyncIterator[int]:
    """Serve `server` on the chassis, with its own connections; yield the port."""
    given = given or settings()
    server.prepare(given)
    with mock.patch("mcp_chassis.app.authentication_of", return_value=authenticate):
        app = wrap(build_app(server, given))
    async with listening(
        app,
        http=bounded_connection(given),
    ) as port:
        yield port


@asynccontextmanager
async def stock(
    server: MCPServer[Any], *, wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app, **options: Any
) -> AsyncIterator[int]:
    """Serve `server` as the SDK's documentation says; yield the port."""
    async with listening(wrap(server.streamable_http_app(**options)), http="h11") as port:
        yield port


@asynccontextmanager
async def talking(server: Server, era: Era, given: Settings | None = None, **more: Any) -> AsyncIterator[Client]:
    """Serve `server` on the chassis and yield a client of `era` that is ready for calls."""
    async with chassis(server, given, **more) as port:
        client = Client(port, era)
        await client.open()
        yield client
