"""Once the server was asked to stop, nothing new begins and every stream ends, while the calls in flight go on (S3).

It stands where the message is known: an answer to a question of a running call, or a session's farewell, is not new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from mcp_chassis import request as requests
from mcp_chassis.http.refusal import Refused
from mcp_chassis.request import Message

_LISTEN: Final = "subscriptions/listen"
_LAST_MESSAGE: Final = 1.0
"""Seconds in which a subscription's last message must have left."""
_RETRY_AFTER: Final = 1.0
"""Seconds told to a refused client: another replica serves already, or this one's successor soon does."""


class Draining:
    """Count what is open, and close the door when told.

    Args:
        end_subscriptions: Lets the SDK end its subscriptions with their last message (2026-07-28, subscriptions).
    """

    def __init__(self, app: ASGIApp, *, end_subscriptions: Callable[[], None]) -> None:
        self._app = app
        self._end_subscriptions = end_subscriptions
        self._streams: dict[anyio.CancelScope, float] = {}
        self._begun = False
        self.requests = 0
        """POSTs that wait for their answer; subscriptions are streams."""

    @property
    def streams(self) -> int:
        """GET streams and subscriptions that are open."""
        return len(self._streams)

    def begin(self) -> None:
        """Refuse what is new from now on, and end every stream."""
        self._begun = True
        self._end_subscriptions()
        for stream, patience in self._streams.items():
            stream.deadline = anyio.current_time() + patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = requests.current()
        message = None if request is None else request.message
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._begun and _new(scope, message):
            raise _stopping()
        if scope["method"] == "GET":
            await self._stream(0, scope, receive, send)
        elif message is not None and message.method == _LISTEN:
            await self._stream(_LAST_MESSAGE, scope, receive, send)
        else:
            self.requests += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self.requests -= 1

    async def _stream(self, patience: float, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a stream last until it ends or the drain ends it; its client sees an orderly end either way."""
        begun = ended = False

        async def watching(event: Event) -> None:
            nonlocal begun, ended
            begun = True
            ended = event["type"] == "http.response.body" and not event.get("more_body", False)
            await send(event)

        with anyio.CancelScope() as stream:
            self._streams[stream] = patience
            try:
                await self._app(scope, receive, watching)
            finally:
                del self._streams[stream]
        if stream.cancelled_caught and not begun:
            raise _stopping()
        if stream.cancelled_caught and not ended:
            await send({"type": "http.response.body", "body": b""})


def _new(scope: Scope, message: Message | None) -> bool:
    """Tell whether a request asks for something: answers, notifications and the end of a session do not."""
    if message is None:
        return bool(scope["method"] == "GET")
    return message.method is not None and message.id is not None


def _stopping() -> Refused:
    text = "The server is stopping; send the request again, and another one answers it"
    return Refused(503, "draining", text, headers=[(b"connection", b"close")], retry_after=_RETRY_AFTER)
