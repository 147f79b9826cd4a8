"""`Accept` is honoured per request, over one session manager in SSE mode (T1, T2, E5).

The SDK takes only clients that accept both types. Here each gets what it asked for: a JSON-only client one JSON answer,
an SSE-only client a stream, everybody else what the SDK chose. Statuses of 400 and above stay JSON.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import anyio
from mcp_types import INTERNAL_ERROR
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.http.answers import EVENTS_TYPE, JSON_TYPE, Answer, AsEvents, AsJson
from mcp_chassis.http.inside import send_inside
from mcp_chassis.telemetry.metrics import open_call

Wish = Literal["json", "events", "either"]

_DROPPED: Final = frozenset({b"accept", b"last-event-id"})
"""`Last-Event-ID` because no events are kept: the SDK would leave such a request without an answer."""
_ACCEPT_BOTH: Final = (b"accept", b"application/json, text/event-stream")
_ENDLESS: Final = "subscriptions/listen"
_GRACE: Final = 5.0
"""Seconds past the longest call after which a tool that ignores its cancellation is answered for (E5)."""


def wish(accept: str) -> Wish:
    """Return what a client can read; one that names neither type is given what there is (RFC 9110, 12.5.1)."""
    ranges = dict(_range(part) for part in (accept or "*/*").split(","))
    json, events = (
        next((ranges[kind] for kind in (exact, family, "*/*") if kind in ranges), False)
        for exact, family in ((JSON_TYPE, "application/*"), (EVENTS_TYPE, "text/*"))
    )
    if json == events:
        return "either"
    return "json" if json else "events"


def _range(part: str) -> tuple[str, bool]:
    """Return a media range and whether it is wanted: `q=0` says it is not."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
    return kind, quality.strip("0.") != ""


class Negotiation:
    """Fit each answer to the `Accept` of its request.

    Args:
        longest_call: Seconds that the longest tool call may take.
    """

    def __init__(self, app: ASGIApp, *, longest_call: float) -> None:
        self._app = app
        self._deadline = longest_call + _GRACE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = requests.current()
        if scope["type"] != "http" or request is None:
            await self._app(scope, receive, send)
            return
        wanted = wish(", ".join(Headers(scope=scope).getlist("accept")))
        scope = {
            **scope,
            "headers": [*(pair for pair in scope["headers"] if pair[0] not in _DROPPED), _ACCEPT_BOTH],
        }
        message = request.message
        if message is None or message.method in (None, _ENDLESS) or message.id is None:
            await self._app(scope, receive, send)
            return
        decline = partial(send_inside, self._app, scope)
        answer: Answer = AsJson(send, decline=decline) if wanted == "json" else AsEvents(send, wrap=wanted == "events")
        with open_call(counted=message.tool is not None):
            with anyio.move_on_after(self._deadline) as deadline:
                await self._app(scope, receive, answer)
            end = "was stopped: it took too long" if deadline.cancelled_caught else "ended without an answer"
            text = f"The call {end}; quote request {request.id} when you report it"
            error = {"code": INTERNAL_ERROR, "message": text, "data": {"requestId": request.id}}
            # Watched too: a client that does not read keeps it from ending.
            await answer.complete({"jsonrpc": "2.0", "id": message.id, "error": error})
