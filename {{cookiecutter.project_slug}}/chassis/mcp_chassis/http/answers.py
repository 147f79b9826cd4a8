"""The two shapes of an answer and the ways from one to the other (T1, T2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from mcp_types import INVALID_REQUEST
from pydantic_core import from_json, to_json
from starlette.datastructures import Headers
from starlette.types import Message, Send

JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"
_EVENT_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)
_SHAPE_HEADERS: Final = frozenset({b"content-length", *(name for name, _ in _EVENT_HEADERS)})


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
            if over and self._events and not _is_answer(_data(self._last)):
                return  # the SDK gave up on this answer; `complete` gives one
            self._ended = over
        await self._send(message)

    async def complete(self, error: dict[str, Any]) -> None:
        """End an answer that has not ended."""
        if self._ended or (self._started and not self._events):
            return
        if self._started:
            await self._send({"type": "http.response.body", "body": _event(to_json(error))})
        elif self._wrap:
            await self._send_event({"type": "http.response.start", "status": 200, "headers": []}, to_json(error))
        else:
            await send_json(self._send, [], to_json(error))

    async def _send_event(self, start: Message, body: bytes) -> None:
        self._ended = True
        await self._send({**start, "headers": [*_without_shape(start), *_EVENT_HEADERS]})
        await self._send({"type": "http.response.body", "body": _event(body)})


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


def _event(data: bytes) -> bytes:
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


def _is_answer(data: bytes) -> bool:
    """Tell whether `data` is an answer: on the stream of a request there is no other than its own."""
    message = _message(data)
    return "id" in message and "method" not in message


def _content_type(start: Message) -> str:
    return Headers(raw=start["headers"]).get("content-type", "").split(";")[0]


def _without_shape(start: Message) -> list[tuple[bytes, bytes]]:
    """Return the headers that hold in either shape, such as the session id."""
    return [pair for pair in start["headers"] if pair[0].lower() not in _SHAPE_HEADERS]
