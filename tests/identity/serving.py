"""Servers under test on real loopback sockets, with a count of what reached MCP code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from mcp_chassis import Server
from mcp_chassis.app import build_app
from mcp_chassis.http.boundary import bounded_connection
from mcp_chassis.request import Caller
from mcp_chassis.settings import Settings
from tests.identity.wire import Era, Headers, Peer
from tests.support.inside import PUBLIC, listening
from tests.support.limits import UNLIMITED

METADATA = f"{PUBLIC}/.well-known/oauth-protected-resource/mcp"
TOOLS = ["discard", "ping", "read", "whoami"]


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
