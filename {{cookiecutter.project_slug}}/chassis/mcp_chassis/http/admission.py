"""What a request may take: decided once in the store, then by counting what is open; nothing waits (L1, L2, L3, L6).

Revocation is judged here, in the same round trip; scopes come after it, from the parsed body (A3, A11).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Final, Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.errors import wait_words
from mcp_chassis.http import Challenge, Refused, place_for
from mcp_chassis.limiter import Entry, Limiter
from mcp_chassis.places import Places
from mcp_chassis.request import Caller, Message, Request
from mcp_chassis.state.store import SECOND, Decision, StoreDown

Authorize = Callable[[Caller, Message | None], None]

_FREE: Final = frozenset({"ping", "server/discover"})
"""What asks nothing of anybody (L10)."""
_STREAM: Final = "subscriptions/listen"
_CALL: Final = "tools/call"
_RETRY_AFTER: Final = 1.0
_SITE_BITS: Final = 64
"""One IPv6 subscriber has a network of this size at least (RFC 6177)."""
_WORDS: Final = {
    "session": "Too many sessions are being opened",
    "caller": "Too many requests",
    "suspended": "You are suspended, because refused calls were repeated too often",
}


class Admission:
    """Let a request in, or say when to come back.

    Args:
        limiter: Decides what is counted over time.
        challenge: How a revoked credential is refused.
        authorize: Lets the caller's message pass, or raises `Refused`.
        when_store_down: `deny` answers 503 while revocation cannot be decided, `allow` lets valid credentials pass.
        streams: Open GET streams and subscriptions.
        calls: Running tool calls.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: Limiter,
        challenge: Challenge,
        authorize: Authorize,
        when_store_down: Literal["deny", "allow"],
        streams: Places,
        calls: Places,
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._challenge = challenge
        self._authorize = authorize
        self._when_store_down = when_store_down
        self._streams = streams
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = requests.entered()
        entry = _entry(scope, request)
        if not request.judged or entry == "opening":
            await self.judge(scope, request, entry)
        self._authorize(request.caller, request.message)
        if request.probing and scope["method"] == "GET":
            raise self._challenge.forbidden(())
        method = None if request.message is None else request.message.method
        counted = not request.probing and request.asserted is None
        if not counted or not (scope["method"] == "GET" or method in (_STREAM, _CALL)):
            await self._app(scope, receive, send)
        elif method == _CALL:
            with place_for(request.caller, self._calls, "calls", _RETRY_AFTER) as request.place:
                await self._app(scope, receive, send)
        else:
            with place_for(request.caller, self._streams, "streams", _RETRY_AFTER):
                await self._app(scope, receive, send)

    async def judge(self, scope: Scope, request: Request, entry: Entry) -> None:
        """Let a request pass, or refuse it; a large or malformed one is judged before or without its message.

        Raises:
            Refused: 401 if its credential was revoked, 429 if its caller has no room, 503 if nobody can tell.
        """
        request.judged = True
        if request.asserted is not None:
            entry = "free"  # counted where it came in; what was revoked since is asked again
        address = client_address(scope) if entry == "opening" else ""
        try:
            decision = await self._limiter.admit(request.caller, address, entry, request.revocations)
        except StoreDown:
            if self._when_store_down == "deny":
                raise self._challenge.undecidable("revocation_undecidable") from None
            decision = await self._limiter.admit_without_store(request.caller, address, entry)
        if decision.refusing == "revoked":
            raise self._challenge.unauthenticated("revoked")
        if decision.refusing is not None:
            raise _refusal(decision)
        request.room_at = time.monotonic() + decision.wait / SECOND


def _entry(scope: Scope, request: Request) -> Entry:
    """Return what a request costs; answers and notifications cost nothing, refusing them would help nobody."""
    message = request.message
    if scope["method"] == "GET":
        return "request"
    if message is None or message.method is None or message.id is None or message.method in _FREE:
        return "free"
    return "opening" if message.method == "initialize" and request.handshake_era else "request"


def _refusal(decision: Decision) -> Refused:
    seconds = decision.wait / SECOND
    if decision.estimate:
        text = f"Limits cannot be checked now: {wait_words(seconds)}"
        return Refused(503, "limit_undecidable", text, retry_after=seconds, estimate=True)
    reason = "suspended" if decision.suspended else str(decision.refusing)
    return Refused(429, f"limit_{reason}", f"{_WORDS[reason]}: {wait_words(seconds)}", retry_after=seconds)


def client_address(scope: Scope) -> str:
    """Return the address that a session is counted for: a host of IPv4, a site of IPv6.

    The edge names its peer in `X-Forwarded-For`. It is believed from loopback alone, where only the edge is, and only
    its last word: what stands before that is the client's own.
    """
    peer = (scope.get("client") or ("unknown", 0))[0]
    address = _parsed(peer)
    if address is not None and address.is_loopback:
        values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        last = values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""
        address = _parsed(last) or address
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, _SITE_BITS), strict=False))
    return peer if address is None else str(address)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
