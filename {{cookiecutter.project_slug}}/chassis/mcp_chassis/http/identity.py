"""Who calls: decided on every request from its head, before its body is read (A1, A2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.auth.assertions import HEADER, Asserted, Assertions, forged
from mcp_chassis.request import EVERY_SCOPE, Caller

EXPIRES_HEADER: Final = "x-credential-expires"
"""Tells a monitor when its credential ends, in seconds since 1970, so that it can warn in time (G5)."""

Authenticate = Callable[[Scope], Awaitable[tuple[Caller, Sequence[str]]]]
"""Returns who sent a request, and the names under which its credential may have been revoked; or raises `Refused`."""
ANONYMOUS = Caller(id="anonymous", scopes=frozenset({EVERY_SCOPE}))
"""The one caller of `MCP_AUTH=none`, from whom nothing is kept."""


_ASSERTION: Final = HEADER.encode("ascii")


class Identity:
    """Put the caller into the request, and into the scope where the SDK binds sessions to it.

    Args:
        authenticate: Proves who sent a request.
        assertions: Judges what other replicas vouch for, if there are any.
    """

    def __init__(self, app: ASGIApp, *, authenticate: Authenticate, assertions: Assertions | None = None) -> None:
        self._app = app
        self._authenticate = authenticate
        self._assertions = assertions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asserted = self._vouched(scope)
        if asserted is None:
            caller, revocations = await self._authenticate(scope)
        else:
            caller, revocations = asserted.caller, asserted.revocations
        request = requests.current()
        if request is not None:
            request.caller, request.revocations, request.asserted = caller, revocations, asserted
        if caller.probing and caller.expires is not None:
            send = _with_header(send, EXPIRES_HEADER, str(int(caller.expires)))
        await self._app(
            {**scope, "user": _user(f"{caller.way}:{caller.id}", caller.tenant, caller.scopes)}, receive, send
        )

    def _vouched(self, scope: Scope) -> Asserted | None:
        """Return what another replica vouches for. A client's assertion is refused like any forged one."""
        given = [value for name, value in scope["headers"] if name == _ASSERTION]
        if not given:
            return None
        if self._assertions is None or len(given) > 1:
            raise forged()
        session = Headers(scope=scope).get("mcp-session-id")
        return self._assertions.judge(given[0].decode("latin-1"), method=scope["method"], session=session)


def _with_header(send: Send, name: str, value: str) -> Send:
    pair = name.encode("ascii"), value.encode("ascii")

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], pair]}
        await send(message)

    return sending


async def admit_everyone(_scope: Scope) -> tuple[Caller, Sequence[str]]:
    """Return the same caller for every request."""
    return ANONYMOUS, ()


@lru_cache(maxsize=1024)
def _user(client: str, tenant: str, scopes: frozenset[str]) -> AuthenticatedUser:
    """Return the caller as the SDK knows it: a session belongs to this client and subject."""
    return AuthenticatedUser(AccessToken(token="", client_id=client, subject=tenant, scopes=sorted(scopes)))
