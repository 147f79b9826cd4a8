"""The end of a server, in an order that loses no call: not ready, nothing new, streams closed, calls answered (S3).

The layer stands where the message is known: an answer to a question of a running call, or a session's farewell, is not
new.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from mcp_chassis import calls
from mcp_chassis import request as requests
from mcp_chassis.errors import REFUSED
from mcp_chassis.health import Health
from mcp_chassis.http import Refused, error_of, event_of
from mcp_chassis.request import Message
from mcp_chassis.telemetry.logging import log

_LAST_WORDS: Final = 2.0
"""Seconds past the deadline in which interrupted requests are answered."""
_PAUSE: Final = 0.02
_LISTEN: Final = "subscriptions/listen"
_LAST_MESSAGE: Final = 1.0
"""Seconds in which a subscription's last message must have left."""
_OWN_WORDS: Final = 1.3
"""Seconds in which an interrupted call answers for itself; longer than cancelled work may take."""
_INTERRUPTED: Final = "The request was stopped because the server restarts; a part of it may have been done"
_RETRY_AFTER: Final = 1.0
"""Seconds told to a refused client: another replica serves already, or this one's successor soon does."""


class Drain:
    """What happens between a signal and the closing of the listener.

    Args:
        health: Turns unready first, so that probes send nobody here.
        draining: The layer that refuses and counts.
        leave: Tells the other replicas not to forward sessions here any more.
        timeout: Seconds that calls in flight have.
    """

    def __init__(
        self, *, health: Health, draining: Draining, leave: Callable[[], Coroutine[None, None, int]], timeout: float
    ) -> None:
        self._health = health
        self._draining = draining
        self._leave = leave
        self.timeout = timeout

    async def run(self, hurried: Callable[[], bool], unread: Callable[[], int]) -> bool:
        """Drain, and tell whether every call came to its own end.

        Args:
            hurried: Whether nobody wants to wait any longer: a second signal came.
            unread: How many answers wait for their clients to read the rest.
        """

        def in_flight() -> int:
            # Requests that wait for an answer, or calls still running whose clients have left.
            return max(self._draining.requests, calls.running()) + unread()

        begun = time.monotonic()
        self._health.drain()
        waiting, streams = in_flight(), self._draining.streams
        self._draining.begin()
        log.info("drain_started", calls=waiting, streams=streams, seconds=self.timeout)
        interrupted = 0
        async with anyio.create_task_group() as tasks:
            # Beside the wait: a silent store must not take the calls' time.
            tasks.start_soon(self._leave)
            await _until(lambda: not in_flight() or hurried(), self.timeout)
            if in_flight():
                interrupted = max(calls.interrupt(), self._draining.interrupt())
                await _until(lambda: not in_flight(), _LAST_WORDS)
        cut = in_flight()
        sessions = await self._leave()  # those too that were in use until now
        log.info(
            "drained",
            calls=waiting,
            interrupted=interrupted,
            cut=cut,
            streams=streams,
            sessions=sessions,
            seconds=round(time.monotonic() - begun, 3),
        )
        return not interrupted and not cut


async def _until(true: Callable[[], bool], seconds: float) -> None:
    with anyio.move_on_after(seconds):
        # Counters and a signal handler make no event to wait for.
        while not true():  # noqa: ASYNC110
            await anyio.sleep(_PAUSE)


class Draining:
    """Count what is open, and close the door when told.

    Args:
        end_subscriptions: Lets the SDK end its subscriptions with their last message (2026-07-28, subscriptions).
    """

    def __init__(self, app: ASGIApp, *, end_subscriptions: Callable[[], None]) -> None:
        self._app = app
        self._end_subscriptions = end_subscriptions
        self._streams: dict[anyio.CancelScope, float] = {}
        self._waiting: set[asyncio.Timeout] = set()
        self._begun = False

    @property
    def requests(self) -> int:
        """POSTs that wait for their answer; subscriptions are streams."""
        return len(self._waiting)

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

    def interrupt(self) -> int:
        """End every request that does not end by itself now, such as one that is forwarded; return how many."""
        for waiting in self._waiting:
            waiting.reschedule(asyncio.get_running_loop().time() + _OWN_WORDS)
        return len(self._waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = requests.entered().message
        if self._begun and _new(scope, message):
            raise _stopping()
        if scope["method"] == "GET":
            await self._stream(0, scope, receive, send)
        elif message is not None and message.method == _LISTEN:
            await self._stream(_LAST_MESSAGE, scope, receive, send)
        else:
            await self._wait(message, scope, receive, send)

    async def _wait(self, message: Message | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request wait for its answer, which is ours if the process ends before."""
        way = _Way(send)
        waiting = asyncio.timeout(None)
        self._waiting.add(waiting)
        try:
            async with waiting:
                await way.through(self._app, scope, receive)
        except TimeoutError:
            if not waiting.expired():
                raise
            if not way.begun:
                raise Refused(503, "interrupted", _INTERRUPTED) from None
            if way.events and not way.ended and message is not None:
                error = error_of(message.id, REFUSED, _INTERRUPTED, reason="interrupted")
                await way.end(b"\r\n\r\n" + event_of(error))
        finally:
            self._waiting.discard(waiting)

    async def _stream(self, patience: float, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a stream last until it ends or the drain ends it; its client sees an orderly end either way."""
        way = _Way(send)
        with anyio.CancelScope() as stream:
            self._streams[stream] = patience
            try:
                await way.through(self._app, scope, receive)
            finally:
                del self._streams[stream]
        if stream.cancelled_caught and not way.begun:
            raise _stopping()
        if stream.cancelled_caught and not way.ended:
            await way.end(b"")


class _Way:
    """The way out, watched: what has been sent decides how an answer can end.

    The end is held until the layers below have given back what the request took: on seeing it, clients send what must
    find room, often under the same id.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Event | None = None
        self._last: Event | None = None

    async def through(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Let `app` answer this way."""
        try:
            await app(scope, receive, self)
        finally:
            if self._last is not None:
                await self._send(self._last)

    @property
    def begun(self) -> bool:
        """Whether the status has been sent."""
        return self._start is not None

    @property
    def ended(self) -> bool:
        """Whether the answer is whole."""
        return self._last is not None

    @property
    def events(self) -> bool:
        """Whether it is a stream of events; asked of interrupted answers alone."""
        kind = "" if self._start is None else Headers(raw=self._start["headers"]).get("content-type", "")
        return kind.startswith("text/event-stream")

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self._start = event
        elif not event.get("more_body", False):
            self._last = event
            return
        await self._send(event)

    async def end(self, last: bytes) -> None:
        """Send the last piece of an answer that was interrupted."""
        await self._send({"type": "http.response.body", "body": last})


def _new(scope: Scope, message: Message | None) -> bool:
    """Tell whether a request asks for something: answers, notifications and the end of a session do not."""
    if message is None:
        return bool(scope["method"] == "GET")
    return message.method is not None and message.id is not None


def _stopping() -> Refused:
    text = "The server is stopping; send the request again, and another one answers it"
    return Refused(503, "draining", text, headers=[(b"connection", b"close")], retry_after=_RETRY_AFTER)
