"""Real servers on loopback: the chassis as `serve` runs it, and the stock SDK beside it for comparison."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from mcp_chassis import Server
from mcp_chassis.app import build_app
from mcp_chassis.auth import Authenticate, admit_everyone
from mcp_chassis.http.boundary import bounded_connection
from mcp_chassis.settings import Settings
from tests.chassis.client import Client, Era
from tests.support.inside import PUBLIC, listening
from tests.support.limits import UNLIMITED


def settings(**given: Any) -> Settings:
    """Return settings that need no environment; `given` replaces single fields."""
    return Settings.model_validate(UNLIMITED | {"tool_timeout": 30, "public_url": PUBLIC} | given)


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
