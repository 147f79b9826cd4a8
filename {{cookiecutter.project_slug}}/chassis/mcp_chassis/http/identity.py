"""Who calls, and whether they may: decided on every request, before any MCP code runs (A1, A2, A11)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.request import EVERY_SCOPE, Caller, Message

Authenticate = Callable[[Scope], Awaitable[Caller]]
Authorize = Callable[[Caller, Message | None], None]
ANONYMOUS = Caller(id="anonymous", scopes=frozenset({EVERY_SCOPE}))
"""The one caller of `MCP_AUTH=none`, from whom nothing is kept."""


class Identity:
    """Put the caller into the request, and into the scope where the SDK binds sessions to it.

    Args:
        authenticate: Returns the caller of a request, or raises `Refused`.
        authorize: Lets the caller's message pass, or raises `Refused`.
    """

    def __init__(self, app: ASGIApp, *, authenticate: Authenticate, authorize: Authorize) -> None:
        self._app = app
        self._authenticate = authenticate
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = await self._authenticate(scope)
        request = requests.current()
        if request is not None:
            request.caller = caller
            self._authorize(caller, request.message)
        await self._app({**scope, "user": _user(caller)}, receive, send)


async def admit_everyone(_scope: Scope) -> Caller:
    """Return the same caller for every request."""
    return ANONYMOUS


@lru_cache(maxsize=1024)
def _user(caller: Caller) -> AuthenticatedUser:
    """Return the caller as the SDK knows it: a session belongs to this client and subject."""
    scopes = sorted(caller.scopes)
    return AuthenticatedUser(AccessToken(token="", client_id=caller.id, subject=caller.tenant, scopes=scopes))
