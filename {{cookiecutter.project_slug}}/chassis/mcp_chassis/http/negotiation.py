"""`Accept` is honoured per request, over one session manager in SSE mode (T1, T2, E5).

The SDK takes only clients that accept both types. Here each gets what it asked for: a JSON-only client one JSON answer,
an SSE-only client a stream, everybody else what the SDK chose. Statuses of 400 and above stay JSON.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any, Final, Literal, Protocol

import anyio
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from pydantic_core import from_json, to_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.telemetry import open_call

JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"
_EVENT_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)
_SHAPE_HEADERS: Final = frozenset({b"content-length", *(name for name, _ in _EVENT_HEADERS)})
Wish = Literal["json", "events", "either"]
_ANSWER: Final = re.compile(rb'^data: ?\{"jsonrpc":"2\.0","id":(?:\d+|"[^"\\]*"),"(?:result|error)":', re.MULTILINE)
_DROPPED: Final = frozenset({b"accept", b"last-event-id"})
"""`Last-Event-ID` because no events are kept: the SDK would leave such a request without an answer."""
_ACCEPT_BOTH: Final = (b"accept", b"application/json, text/event-stream")
_ENDLESS: Final = "subscriptions/listen"
_GRACE: Final = 5.0
"""Seconds past the longest call after which a tool that ignores its cancellation is answered for (E5)."""


class Answer(Protocol):
    """The `send` of one request that expects one answer."""

    async def __call__(self, message: Message) -> None:
        """Take one ASGI message of the SDK's answer."""

    async def complete(self, error: dict[str, Any]) -> None:
        """End the answer, with the JSON-RPC message `error` if the SDK's never came."""


class AsEvents:
    """Pass an answer on; with `wrap`, turn a JSON answer into a stream of one event.

    Args:
        wrap: The client reads event streams only.
    """

    def __init__(self, send: Send, *, wrap: bool) -> None:
        self._send = send
        self._wrap = wrap
        self._held: Message | None = None
        self._body = b""
        self._last = b""
        self._started = False
        self._events = False
        self._ended = False

    async def __call__(self, message: Message) -> None:
        """Forward `message`, or hold it until the JSON answer is whole."""
        if message["type"] == "http.response.start":
            kind = _content_type(message)
            self._events = kind == EVENTS_TYPE
            if self._wrap and message["status"] == 200 and kind == JSON_TYPE:
                self._held = message
                return
            self._started = True
        elif self._held is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_event(self._held, self._body)
            return
        else:
            self._last = message.get("body", b"") or self._last
            over = not message.get("more_body", False)
            if over and self._events and not _is_answer(self._last):
                return  # the SDK gave up on this answer; `complete` gives one
            self._ended = over
        await self._send(message)

    async def complete(self, error: dict[str, Any]) -> None:
        """End an answer that has not ended."""
        if self._ended or (self._started and not self._events):
            return
        if self._started:
            await self._send({"type": "http.response.body", "body": event_of(to_json(error))})
        elif self._wrap:
            await self._send_event({"type": "http.response.start", "status": 200, "headers": []}, to_json(error))
        else:
            await send_json(self._send, [], to_json(error))

    async def _send_event(self, start: Message, body: bytes) -> None:
        self._ended = True
        await self._send({**start, "headers": [*_without_shape(start), *_EVENT_HEADERS]})
        await self._send({"type": "http.response.body", "body": event_of(body)})


class AsJson:
    """Collect an event stream and answer with the one message that the client asked for.

    Notifications and pings on the way are dropped: a client that takes JSON alone has no place for them. A question
    to the user is declined in its name, so that the tool can go on or fail at once.

    Args:
        decline: Sends the JSON-RPC message that declines a question into the session.
    """

    def __init__(self, send: Send, *, decline: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._decline = decline
        self._held: Message | None = None
        self._started = False
        self._ended = False
        self._rest = b""

    async def __call__(self, message: Message) -> None:
        """Forward a JSON answer; collect an event stream."""
        if message["type"] == "http.response.start" and _content_type(message) == EVENTS_TYPE:
            self._held = message
        elif self._held is None:
            self._started = True
            await self._send(message)
        elif not self._ended:
            await self._collect(self._held, message.get("body", b""))

    async def _collect(self, start: Message, chunk: bytes) -> None:
        *events, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            message = _message(data := _data(event))
            if "id" in message and "method" in message:
                error = {"code": INVALID_REQUEST, "message": "This client takes JSON alone and cannot be asked"}
                await self._decline(to_json({"jsonrpc": "2.0", "id": message["id"], "error": error}))
            elif "id" in message:
                self._ended = True
                await send_json(self._send, _without_shape(start), data)
                return

    async def complete(self, error: dict[str, Any]) -> None:
        """Answer with `error` if the stream ended without an answer."""
        if not self._started and not self._ended:
            self._ended = True
            await send_json(self._send, [] if self._held is None else _without_shape(self._held), to_json(error))


async def send_json(send: Send, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send `body` as one JSON answer with status 200."""
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, *own]})
    await send({"type": "http.response.body", "body": body})


def event_of(data: bytes) -> bytes:
    """Return one event that holds a message."""
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"


def _data(event: bytes) -> bytes:
    """Return what one event says; nothing for a ping."""
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def _message(data: bytes) -> dict[str, Any]:
    """Return the JSON-RPC message of an event; nothing for a ping, or for what no client could read either."""
    try:
        message = from_json(data)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _is_answer(event: bytes) -> bool:
    """Tell whether an event is an answer: on the stream of a request there is no other than its own."""
    # As the SDK writes it; parsing a large answer once more would cost as much as making it.
    if _ANSWER.search(event) is not None:
        return True
    message = _message(_data(event))
    return "id" in message and "method" not in message


def _content_type(start: Message) -> str:
    return Headers(raw=start["headers"]).get("content-type", "").split(";")[0]


def _without_shape(start: Message) -> list[tuple[bytes, bytes]]:
    """Return the headers that hold in either shape, such as the session id."""
    return [pair for pair in start["headers"] if pair[0].lower() not in _SHAPE_HEADERS]


async def send_inside(app: ASGIApp, scope: Scope, body: bytes = b"") -> None:
    """Send one request and drop its answer.

    Args:
        app: The layers below.
        scope: The request.
        body: Its body.
    """
    pending: list[Message] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": body, "more_body": False},
    ]

    async def receive() -> Message:
        return pending.pop() if len(pending) > 1 else pending[0]

    async def drop(_message: Message) -> None:
        return None

    await app(scope, receive, drop)


@lru_cache(maxsize=128)
def wish(accept: bytes) -> Wish:
    """Return what a client can read; one that names neither type is given what there is (RFC 9110, 12.5.1)."""
    ranges = dict(_range(part) for part in (accept.decode("latin-1") or "*/*").split(","))
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
        wanted = wish(b", ".join(value for name, value in scope["headers"] if name == b"accept"))
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
