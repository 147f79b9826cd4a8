"""The session table: how many are open, whose they are, when they end (A8, T7).

The SDK opens a session before it has read the `initialize`, gives no public sign that one ended, and lets two requests
with one id wait for each other for ever. So the table is ours; what it ends, it ends by a `DELETE` through ASGI.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import anyio
from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.http import Refused, place_for, send_inside
from mcp_chassis.http.forwarding import Forwarding
from mcp_chassis.places import Place, Places
from mcp_chassis.request import Caller, Request
from mcp_chassis.telemetry import ACTIVE_SESSIONS
from mcp_chassis.telemetry.logging import log

_HEADER: Final = b"mcp-session-id"
_KEPT: Final = ("type", "asgi", "http_version", "scheme", "path", "query_string", "client", "server", "user")
_UNUSED: Final = 60.0
"""Seconds for a session that nothing follows: its client left before it saw the id. The probe's never get more."""
_MOST_PROBES: Final = 100
_PAUSES_PER_TIMEOUT: Final = 4
_RETRY_AFTER: Final = 30.0
"""Seconds told to a client that finds the table full: idle sessions end one by one, nobody knows when."""


@dataclass(slots=True, eq=False)
class _Session:
    owner: Caller
    scope: Scope
    """What its farewell needs of the request that opened it."""
    last_used: float
    patience: float
    place: Place
    requests: int = 0
    ids: set[str] = field(default_factory=set)

    def idle(self, now: float) -> bool:
        """Tell whether nobody has used it for as long as it may wait."""
        return not self.requests and self.last_used < now - self.patience


class Ownership:
    """Count sessions in, hold them to their owner, and count them out.

    Args:
        places: Sessions open at one time; the probe's are not among them (A7).
        idle_timeout: Seconds without any request after which a session ends, if it was ever used.
        forwarding: The way to sessions that other replicas hold, if there are any.
    """

    def __init__(
        self, app: ASGIApp, *, places: Places, idle_timeout: float, forwarding: Forwarding | None = None
    ) -> None:
        self._app = app
        self._forwarding = forwarding
        self._leaving = False
        self._left: set[str] = set()
        self._places = places
        self._probes = Places(_MOST_PROBES)
        self._idle_timeout = idle_timeout
        self._unused = min(idle_timeout, _UNUSED)
        self._sessions: dict[str, _Session] = {}

    @property
    def count(self) -> int:
        """Sessions open now."""
        return len(self._sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = requests.entered()
        if not request.handshake_era:
            await self._app(scope, receive, send)
            return
        given = request.headers.get(_HEADER)
        if given is not None:
            request.session_id = session_id = given.decode("ascii")
            await self._continue(session_id, request, scope, receive, send)
        elif request.message is None or request.message.method != "initialize":
            raise Refused(400, "no_session", "Mcp-Session-Id is missing; initialize first", INVALID_REQUEST)
        elif request.message.id is None:
            raise Refused(400, "no_id", "initialize needs an id", INVALID_REQUEST)
        else:
            await self._open(request, scope, receive, send)

    async def _open(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        places = self._probes if request.probing else self._places
        place = place_for(request.caller, places, "sessions", _RETRY_AFTER)

        async def registering(message: Message) -> None:
            # The client may use the session as soon as it has seen this header.
            if message["type"] == "http.response.start" and (session_id := _session_id(message)) is not None:
                request.session_id = session_id
                self._sessions[session_id] = _Session(
                    request.caller, _kept(scope), time.monotonic(), self._unused, place.hold(), requests=1
                )
                ACTIVE_SESSIONS.set(self.count)
                if self._forwarding is not None:
                    await self._forwarding.claim(session_id)
            await send(message)

        with place:
            try:
                await self._app(scope, receive, registering)
            finally:
                await self._settle(request)

    async def _settle(self, request: Request) -> None:
        """Keep the session that an `initialize` opened, or end it."""
        session = self._sessions.get(request.session_id or "")
        if session is None or request.session_id is None:
            return
        session.requests -= 1
        if request.initialized:
            log.info("session_opened", sessions=self.count)
        else:
            await self._end(request.session_id, "not_initialized")

    async def _continue(self, session_id: str, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        session = self._sessions.get(session_id)
        if (
            session is None
            and self._forwarding is not None
            and request.asserted is None
            and await self._forwarding.forward(session_id, request, scope, receive, send)
        ):
            return
        if session is None or session.owner.identity != request.caller.identity:
            # The same answer for both: whether a session exists is its owner's business.
            raise Refused(404, "unknown_session", "No such session; initialize a new one", INVALID_REQUEST)
        claimed = _claim_id(session, request)
        session.requests += 1
        status = 0

        async def watching(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watching)
        finally:
            session.requests -= 1
            session.last_used = time.monotonic()
            session.patience = self._unused if request.probing else self._idle_timeout
            session.ids.discard(claimed or "")
            if status == 404 or (scope["method"] == "DELETE" and status == 200):
                self._forget(session_id, "ended")

    def _forget(self, session_id: str, reason: Literal["ended", "idle", "not_initialized"]) -> _Session | None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.place.let_go()
            ACTIVE_SESSIONS.set(self.count)
            log.info("session_closed", reason=reason, sessions=self.count)
        return session

    async def _end(self, session_id: str, reason: Literal["idle", "not_initialized"]) -> None:
        """End a session in the SDK too, in the name of its owner."""
        session = self._forget(session_id, reason)
        if session is None:
            return
        scope = {
            **session.scope,
            "method": "DELETE",
            "headers": [(_HEADER, session_id.encode("ascii"))],
        }
        with anyio.CancelScope(shield=True):
            await send_inside(self._app, scope)

    def held(self) -> list[str]:
        """Return the sessions that other replicas may forward to: while the process stops, those in use alone."""
        return [key for key, session in self._sessions.items() if session.requests or not self._leaving]

    async def leave(self) -> int:
        """Let nobody forward to the idle sessions any more, and return how many sessions end with the process."""
        self._leaving = True
        if self._forwarding is not None:
            idle = set(self._sessions).difference(self._left, self.held())
            self._left |= idle
            await self._forwarding.release(idle)
        return self.count

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        """End idle sessions for as long as the context lasts."""
        pause = self._unused / _PAUSES_PER_TIMEOUT

        async def sweep() -> None:
            while True:
                await anyio.sleep(pause)
                now = time.monotonic()
                for session_id in [key for key, found in self._sessions.items() if found.idle(now)]:
                    await self._end(session_id, "idle")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweep)
            yield
            tasks.cancel_scope.cancel()


def _kept(scope: Scope) -> Scope:
    """Return a scope without what is large in it: there may be thousands of sessions."""
    return {name: scope[name] for name in _KEPT if name in scope}


def _claim_id(session: _Session, request: Request) -> str | None:
    """Reserve the JSON-RPC id of a request while it runs; `7` and `"7"` are one to the SDK."""
    message = request.message
    if message is None or message.method is None or message.id is None:
        return None
    claimed = str(message.id)
    if claimed in session.ids:
        raise Refused(400, "duplicate_id", "A request with this id is still running in this session", INVALID_REQUEST)
    session.ids.add(claimed)
    return claimed


def _session_id(message: Message) -> str | None:
    return next((value.decode("ascii") for name, value in message["headers"] if name == _HEADER), None)
