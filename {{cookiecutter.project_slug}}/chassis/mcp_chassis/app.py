"""The way of a request, outermost layer first; DESIGN's table as code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.auth import Authenticate, Identity, authentication_of, challenge_of, issuer_client, resource_url
from mcp_chassis.auth.assertions import Assertions
from mcp_chassis.health import Check, Health
from mcp_chassis.http import LOOPBACK_ORIGIN, Authorization, Challenge, Names, metadata_route
from mcp_chassis.http.admission import Admission
from mcp_chassis.http.boundary import Boundary
from mcp_chassis.http.draining import Drain, Draining
from mcp_chassis.http.envelope import Envelope
from mcp_chassis.http.forwarding import Forwarding
from mcp_chassis.http.negotiation import Negotiation
from mcp_chassis.http.ownership import Ownership
from mcp_chassis.places import Places
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state import open_store
from mcp_chassis.state.store import Store
from mcp_chassis.telemetry import BUILD, LONGEST_CALL, metrics_route
from mcp_chassis.telemetry.logging import log

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig  # not in all versions that run

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own spans carry the query string and client-chosen paths; ours do not (O2, O7)."""
_EXPOSED = ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Request-ID")


class Application(FastAPI):
    """The ASGI application of a server."""

    drain: Drain
    """What to do before its process ends."""
    mcp: ASGIApp
    """What serves `/mcp`."""
    browsers: ASGIApp
    """The same for pages, whose requests name their origin."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve `/mcp` at once: routing and the framework's own layers would cost each call a tenth of its time."""
        if scope["type"] != "http" or scope["path"] != "/mcp":
            await super().__call__(scope, receive, send)
        elif any(name == b"origin" for name, _ in scope["headers"]):
            await self.browsers(scope, receive, send)
        else:
            await self.mcp(scope, receive, send)


def build_app(
    server: Server,
    settings: Settings,
    *,
    beside: Sequence[AbstractAsyncContextManager[object]] = (),
    on_failure: Callable[[], None] = lambda: None,
) -> Application:
    """Return the ASGI application of a prepared server; it runs once.

    Args:
        server: The server, after `prepare`.
        settings: The same settings.
        beside: What else is to be open for as long as the application runs.
        on_failure: Called when what serves the sessions has died: such a process must not go on looking alive.

    Raises:
        ConfigurationError: If the keys file cannot be read.
    """
    store = open_store(settings.state_url.get_secret_value(), server=server.name, longest=settings.state_timeout)
    client = issuer_client()
    challenge = challenge_of(settings, server.name)
    authenticate = authentication_of(settings, challenge=challenge, store=store, client=client)
    manager = _session_manager(server, settings)
    names = Names.of(settings)
    way = _layers(server, settings, manager, names, challenge, store, authenticate)
    health = Health(server.version, [*_checks(settings, store), *server.checks])
    LONGEST_CALL.set(settings.tool_timeout)
    BUILD.labels(server.version).set(1)
    lifespan = _lifespan(
        client,
        manager.run(),
        way.ownership.sweeping(),
        *([] if way.forwarding is None else [way.forwarding.renewing(way.ownership.held)]),
        health.checking(),
        *beside,
        closing=[store.close, server.close],
        on_failure=on_failure,
    )
    app = Application(
        title=server.name, lifespan=lifespan, openapi_url=None, redirect_slashes=False, telemetry=_NO_TELEMETRY
    )
    app.include_router(health.routes())
    app.router.routes += [metrics_route(), *_metadata(server, settings)]
    app.mcp, app.browsers = way.boundary, _for_browsers(way.boundary, names)
    app.drain = Drain(health=health, draining=way.draining, leave=way.ownership.leave, timeout=settings.drain_seconds)
    return app


@dataclass(frozen=True, slots=True)
class _Way:
    """The first layer of the way, and those that have something to do beside it."""

    boundary: Boundary
    draining: Draining
    ownership: Ownership
    forwarding: Forwarding | None


def _layers(
    server: Server,
    settings: Settings,
    manager: StreamableHTTPSessionManager,
    names: Names,
    challenge: Challenge,
    store: Store,
    authenticate: Authenticate,
) -> _Way:
    """Return the layers; each is given the one below it."""
    stateless = settings.sessions == "stateless"
    negotiation = Negotiation(
        StreamableHTTPASGIApp(manager), answer_only=server.answer_only, longest_call=settings.tool_timeout
    )
    sessions = Places(settings.max_sessions, settings.max_sessions_per_caller)
    assertions, forwarding = _replicas(server, settings, store)
    ownership = Ownership(
        negotiation, places=sessions, idle_timeout=settings.session_idle_timeout, forwarding=forwarding
    )
    admission = _admission(negotiation if stateless else ownership, server, settings, challenge, store)
    draining = Draining(admission, end_subscriptions=server.end_subscriptions)
    envelope = Envelope(
        draining,
        judge=admission.judge,
        max_body_bytes=settings.max_body_bytes,
        receive_timeout=settings.receive_timeout,
    )
    identity = Identity(envelope, authenticate=authenticate, assertions=assertions)
    methods = ("POST",) if stateless else ("POST", "GET", "DELETE")
    boundary = Boundary(identity, names=names, methods=methods, max_header_bytes=settings.max_header_bytes)
    return _Way(boundary, draining, ownership, forwarding)


def _replicas(server: Server, settings: Settings, store: Store) -> tuple[Assertions, Forwarding] | tuple[None, None]:
    """Return how other replicas are believed, and the way to their sessions, where there are any."""
    if settings.peer_url is None or settings.peer_secret is None:
        return None, None
    secrets = settings.peer_secret.get_secret_value().split()
    assertions = Assertions(secrets, server=server.name, url=settings.peer_url)
    forwarding = Forwarding(
        store,
        assertions,
        url=settings.peer_url,
        public_url=settings.public_url,
        certificate_authority=settings.peer_ca_file,
        longest_call=settings.tool_timeout,
    )
    return assertions, forwarding


def _admission(app: ASGIApp, server: Server, settings: Settings, challenge: Challenge, store: Store) -> Admission:
    """Return the layer that limits, and let the same limiter judge the server's calls."""
    return Admission(
        app,
        limiter=server.limit(settings, store),
        challenge=challenge,
        authorize=Authorization(challenge, server.scopes_of),
        when_store_down=settings.revocation_when_store_down,
        streams=Places(settings.max_streams, settings.max_streams_per_caller),
        calls=Places(settings.max_calls, settings.max_calls_per_caller),
    )


class _AnswerOnly:
    """Whether the SDK needs no stream: it asks this by its truth, once or more for each request."""

    def __bool__(self) -> bool:
        request = requests.current()
        return request is not None and request.answer_only


def _session_manager(server: Server, settings: Settings) -> StreamableHTTPSessionManager:
    """Return the SDK's manager; Host and Origin are checked at the boundary, sessions end in the table, not there."""
    server.streamable_http_app(
        json_response=cast("bool", _AnswerOnly()),
        stateless_http=settings.sessions == "stateless",
        max_request_body_size=settings.max_body_bytes,
        session_idle_timeout=None,
        max_sessions=None,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return server.session_manager


def _lifespan(
    *opened: AbstractAsyncContextManager[object],
    closing: Sequence[Callable[[], Awaitable[None]]],
    on_failure: Callable[[], None],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan that holds `opened` open, and tells when one of them breaks before its time."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            async with AsyncExitStack() as stack:
                for close in closing:
                    stack.push_async_callback(close)
                for context in opened:
                    await stack.enter_async_context(context)
                yield
        except BaseException as error:
            log.crash(error)
            on_failure()
            raise

    return lifespan


def _metadata(server: Server, settings: Settings) -> list[BaseRoute]:
    """Return the route of the OAuth metadata, where there is an issuer to tell of."""
    if "jwt" not in settings.auth or settings.jwt_issuer is None:
        return []
    return [metadata_route(resource=resource_url(settings), issuer=settings.jwt_issuer, scopes=server.all_scopes())]


def _checks(settings: Settings, store: Store) -> list[Check]:
    """Return the checks of what this server needs beside itself."""
    if not store.shared:
        return []
    in_store = "keys" in settings.auth and settings.api_keys_file is None
    required = "none" not in settings.auth and (in_store or settings.revocation_when_store_down == "deny")
    return [Check("store", partial(store.read, ["health"]), required=required, interval=1, slow=0.1)]


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
