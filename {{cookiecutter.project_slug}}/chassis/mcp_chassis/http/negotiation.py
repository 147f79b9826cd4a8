"""`Accept` is honoured per request, over one session manager (T1, T2, T4, E5).

The SDK takes only clients that accept both types. Here each gets what it asked for: a JSON-only client one JSON answer,
an SSE-only client a stream, everybody else JSON where nothing but the answer can come. Statuses of 400 and above stay
JSON.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final

import anyio
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.http import error_of, event_of, send_inside, send_json
from mcp_chassis.request import EVENTS_TYPE, JSON_TYPE, wish
from mcp_chassis.request import Message as Body
from mcp_chassis.telemetry import open_call

_EVENT_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)
_OK: Final[Message] = {"type": "http.response.start", "status": 200, "headers": []}
_SHAPE_HEADERS: Final = frozenset({b"content-length", *(name for name, _ in _EVENT_HEADERS)})
_ANSWER: Final = re.compile(rb'^data: ?\{"jsonrpc":"2\.0","id":(?:\d+|"[^"\\]*"),"(?:result|error)":', re.MULTILINE)
_DROPPED: Final = frozenset({b"accept", b"last-event-id"})
"""`Last-Event-ID` because no events are kept: the SDK would leave such a request without an answer."""
_ACCEPT_BOTH: Final = (b"accept", b"application/json, text/event-stream")
_ENDLESS: Final = "subscriptions/listen"
_FAILED: Final = 500
"""What the SDK says where its session ended below a call; `complete` says it by our contract (E1)."""
_PATIENCE: Final = 0.1
"""Seconds after which a call is attended: most are over by then, and cost no task."""
_PING: Final = 10.0
"""Seconds between two pings, below the 15 that T4 promises."""
_GRACE: Final = 5.0
"""Seconds past the longest call after which a tool that ignores its cancellation is answered for (E5)."""


class AsEvents:
    """Pass an answer on; with `wrap`, turn a JSON answer into a stream of one event.

    Args:
        wrap: The client reads event streams only.
    """

    def __init__(self, send: Send, *, wrap: bool) -> None:
        self._send = send
        self._wrap = wrap
        self._pinging: asyncio.Event | None = None
        self._held: Message | None = None
        self._body = b""
        self._last = b""
        self._started = False
        self._failed = False
        self._events = False
        self._ended = False

    async def __call__(self, message: Message) -> None:
        """Forward `message`, or hold it until the JSON answer is whole; never while a ping waits for its client."""
        if self._pinging is not None:
            await self._pinging.wait()
        if message["type"] == "http.response.start":
            kind, self._failed = _content_type(message), message["status"] == _FAILED
            if self._failed:
                return
            if self._started or (self._wrap and message["status"] == 200 and kind == JSON_TYPE):
                self._held = message
                return
            self._started, self._events = True, kind == EVENTS_TYPE
        elif self._failed:
            return
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

    @property
    def over(self) -> bool:
        """Whether nothing is missing."""
        return self._ended or (self._started and not self._events)

    async def complete(self, error: bytes) -> None:
        """End an answer that is not over."""
        if self._started:
            await self._send({"type": "http.response.body", "body": event_of(error)})
        elif self._wrap:
            await self._send_event(_OK, error)
        else:
            await send_json(self._send, error, [])

    async def ping(self) -> None:
        """Keep whoever is in between from giving up; from the first one on the answer is a stream."""
        if self.over:
            return
        self._pinging = asyncio.Event()
        try:
            if not self._started:
                await self._send({**_OK, "headers": [*_EVENT_HEADERS]})
                self._started = self._events = True
            await self._send({"type": "http.response.body", "body": b": ping\r\n\r\n", "more_body": True})
        finally:
            self._pinging.set()
            self._pinging = None

    async def _send_event(self, start: Message, body: bytes) -> None:
        self._ended = True
        if not self._started:
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
        if message["type"] == "http.response.start" and (
            _content_type(message) == EVENTS_TYPE or message["status"] == _FAILED
        ):
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
                text = "This client takes JSON alone and cannot be asked"
                await self._decline(error_of(message["id"], INVALID_REQUEST, text))
            elif "id" in message:
                self._ended = True
                await send_json(self._send, data, _without_shape(start))
                return

    async def ping(self) -> None:
        """Leave the client waiting: one JSON answer has no place for more."""

    @property
    def over(self) -> bool:
        """Whether nothing is missing."""
        return self._started or self._ended

    async def complete(self, error: bytes) -> None:
        """Answer with `error`: the stream ended without an answer."""
        self._ended = True
        await send_json(self._send, error, [] if self._held is None else _without_shape(self._held))


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


class _Attended:
    """What the SDK does for a call with a stream, for one without: ping its client, end it when that has left."""

    def __init__(self, call: asyncio.Timeout, receive: Receive, answer: AsEvents | AsJson) -> None:
        self._call, self._receive, self._answer = call, receive, answer
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._patience = self._loop.call_later(_PATIENCE, self._begin)

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._attend())

    async def _attend(self) -> None:
        while True:
            with anyio.move_on_after(_PING):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                # In a session that ends the wait alone: there a call goes on (2025-11-25, transports, disconnection).
                if not self._call.expired():
                    self._call.reschedule(self._loop.time())
                return
            await self._answer.ping()


class Negotiation:
    """Fit each answer to the `Accept` of its request.

    Args:
        answer_only: Tells whether a message can bring nothing but its answer.
        longest_call: Seconds that the longest tool call may take.
    """

    def __init__(self, app: ASGIApp, *, answer_only: Callable[[Body], bool], longest_call: float) -> None:
        self._app = app
        self._answer_only = answer_only
        self._deadline = longest_call + _GRACE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = requests.current()
        if request is None:  # the session table ends one
            await self._app(scope, receive, send)
            return
        wanted = wish(b", ".join(value for name, value in scope["headers"] if name == b"accept"))
        headers = [*(pair for pair in scope["headers"] if pair[0] not in _DROPPED), _ACCEPT_BOTH]
        scope = {**scope, "headers": headers}
        message = request.message
        if message is None or message.method in (None, _ENDLESS) or message.id is None:
            await self._app(scope, receive, send)
            return
        decline = partial(send_inside, self._app, scope)
        answer = AsJson(send, decline=decline) if wanted == "json" else AsEvents(send, wrap=wanted == "events")
        request.answer_only = self._answer_only(message)
        with open_call(counted=message.tool is not None):
            end = "ended without an answer"
            try:
                async with asyncio.timeout(self._deadline) as deadline:
                    with _Attended(deadline, receive, answer) if request.answer_only else nullcontext():
                        await self._app(scope, receive, answer)
            except TimeoutError:
                if not deadline.expired():
                    raise
                end = "was stopped: it took too long"
            if answer.over:
                return
            text = f"The call {end}; quote request {request.id} when you report it"
            # Watched too: a client that does not read keeps it from ending.
            await answer.complete(error_of(message.id, INTERNAL_ERROR, text, requestId=request.id))
