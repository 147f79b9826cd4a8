"""The way of a request, outermost layer first; DESIGN's table as code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from mcp_chassis.auth.authorization import Authorization
from mcp_chassis.auth.metadata import metadata_route
from mcp_chassis.auth.modes import authentication_of, challenge_of, issuer_client, resource_url
from mcp_chassis.health import Check, health_routes
from mcp_chassis.http.boundary import Boundary
from mcp_chassis.http.hosts import LOOPBACK_ORIGIN, Names
from mcp_chassis.http.identity import Authenticate, Identity, admit_everyone
from mcp_chassis.http.negotiation import Negotiation
from mcp_chassis.http.ownership import Ownership
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state import open_store
from mcp_chassis.state.store import Store, StoreDown

_EXPOSED = ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Request-ID")


def build_app(server: Server, settings: Settings, *, authenticate: Authenticate | None = None) -> FastAPI:
    """Return the ASGI application of a prepared server; it runs once.

    Args:
        server: The server, after `prepare`.
        settings: The same settings.
        authenticate: Returns the caller of each request; by default what `MCP_AUTH` says.

    Raises:
        ConfigurationError: If the keys file cannot be read.
    """
    stateless = settings.sessions == "stateless"
    # Host and Origin are checked at the boundary, sessions end in the table: the SDK's own checks are off.
    server.streamable_http_app(
        stateless_http=stateless,
        max_request_body_size=settings.max_body_bytes,
        session_idle_timeout=None,
        max_sessions=None,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    manager = server.session_manager
    store = open_store(settings.state_url.get_secret_value(), server=server.name)
    client = issuer_client()
    challenge = challenge_of(settings, server.name)
    if authenticate is None:
        authenticate = (
            admit_everyone
            if "none" in settings.auth
            else authentication_of(settings, challenge=challenge, store=store, client=client)
        )

    negotiation = Negotiation(StreamableHTTPASGIApp(manager), longest_call=settings.tool_timeout)
    ownership = Ownership(negotiation, maximum=settings.max_sessions, idle_timeout=settings.session_idle_timeout)
    identity = Identity(
        negotiation if stateless else ownership,
        authenticate=authenticate,
        authorize=Authorization(challenge, server.scopes_of),
    )
    boundary = Boundary(
        identity,
        names=(names := Names.of(settings)),
        methods=("POST",) if stateless else ("POST", "GET", "DELETE"),
        max_body_bytes=settings.max_body_bytes,
        max_header_bytes=settings.max_header_bytes,
        receive_timeout=settings.receive_timeout,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            opened.push_async_callback(store.close)
            await opened.enter_async_context(client)
            await opened.enter_async_context(manager.run())
            await opened.enter_async_context(ownership.sweeping())
            yield

    app = FastAPI(title=server.name, lifespan=lifespan, openapi_url=None)
    app.include_router(health_routes(version=server.version, checks=_checks(settings, store)))
    if "jwt" in settings.auth and settings.jwt_issuer is not None:
        scopes = server.all_scopes()
        app.router.routes.append(
            metadata_route(resource=resource_url(settings), issuer=settings.jwt_issuer, scopes=scopes)
        )
    # A Route, not a mount: a mount answers /mcp with a redirect that clients do not follow.
    app.router.routes.append(Route("/mcp", endpoint=_for_browsers(boundary, names)))
    return app


def _checks(settings: Settings, store: Store) -> list[Check]:
    """Return the checks of what this server needs beside itself."""
    if not store.shared:
        return []

    async def answers() -> bool:
        try:
            await store.read(["health"])
        except StoreDown:
            return False
        return True

    return [Check("store", answers, required=settings.revocation_when_store_down == "deny")]


def _for_browsers(app: ASGIApp, names: Names) -> CORSMiddleware:
    """Wrap `app` so that pages of the admitted origins can read its answers, refusals included (T7)."""
    return CORSMiddleware(
        app,
        allow_origins=sorted(names.origins),
        allow_origin_regex=LOOPBACK_ORIGIN if names.loopback_origins else None,
        allow_methods=["POST", "GET", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=600,
    )
