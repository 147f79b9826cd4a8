"""The first layer of `/mcp`: the head of a request is bounded, well formed and meant for us (T7, E2).

It opens the request that all layers share, and no exception passes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import SplitResult, urlsplit

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mcp_chassis import request as requests
from mcp_chassis.http import Refused, refuse
from mcp_chassis.request import Request
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry import REQUESTS_IN_FLIGHT
from mcp_chassis.telemetry.logging import log

_LOOPBACK_HOST: Final = r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
LOOPBACK_ORIGIN: Final = rf"https?://{_LOOPBACK_HOST}"
"""Pages a developer serves on the own machine, the MCP Inspector among them."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_LINE: Final = 8192
"""Bytes beside the headers; what is larger than both is cut by the connection, not answered by the boundary."""
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class BoundedConnection(HttpToolsProtocol):
    """A connection that cuts clients slower than its two timeouts, in seconds, and heads larger than its bound."""

    receive_timeout: ClassVar[float]
    send_timeout: ClassVar[float]
    max_head_bytes: ClassVar[int]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._head_bytes = 0

    @property
    def unread(self) -> bool:
        """Whether the end of an answer waits for its client to read."""
        cycle = vars(self).get("cycle")
        return cycle is not None and cycle.response_complete and self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start("headers", self.receive_timeout)

    def data_received(self, data: bytes) -> None:
        cycle = vars(self).get("cycle")
        if cycle is None or cycle.response_complete:
            self._start("headers", self.receive_timeout)
        super().data_received(data)
        if vars(self).get("cycle") is not cycle:
            self._stop("headers")
            self._head_bytes = 0
        elif "headers" in self._clocks:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self.send_400_response("Request head too large.")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))  # no part of it (RFC 9110, 5.5), and llhttp leaves it

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # What comes after the body under the names of headers is nobody's: layers decide by the head alone.
        self.headers = []

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("send", self.send_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("send")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in tuple(self._clocks):
            self._stop(name)
        super().connection_lost(exc)

    def _start(self, name: str, seconds: float) -> None:
        if name not in self._clocks:
            self._clocks[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if name in self._clocks:
            self._clocks.pop(name).cancel()


def bounded_connection(settings: Settings) -> type[BoundedConnection]:
    """Return a connection class with the bounds of `settings`.

    From the first byte of a connection or request to the end of its headers it may take `receive_timeout`, a full send
    buffer may stand still for `send_timeout`; what is larger than the headers may be and a request line is cut here.
    """

    class Connection(BoundedConnection):
        receive_timeout, send_timeout = settings.receive_timeout, settings.send_timeout
        max_head_bytes = settings.max_header_bytes + _REQUEST_LINE

    return Connection


def _spellings(url: SplitResult) -> tuple[str, ...]:
    """Return the `Host` values that mean `url`: the default port may be left out or not (RFC 9110, 4.2.3)."""
    if url.port is not None:
        return (url.netloc,)
    return (url.netloc, f"{url.netloc}:{_DEFAULT_PORTS[url.scheme]}")


@dataclass(frozen=True, slots=True)
class Names:
    """The hosts and origins of this server."""

    hosts: frozenset[str]
    origins: frozenset[str]
    loopback_origins: bool

    @classmethod
    def of(cls, settings: Settings) -> Names:
        """Return what `settings` allow: the public URL, what is listed, and loopback."""
        public = urlsplit(settings.public_url)
        return cls(
            hosts=frozenset(host.lower() for host in (*_spellings(public), *settings.allowed_hosts)),
            origins=frozenset({settings.public_url.lower(), *(origin.lower() for origin in settings.allowed_origins)}),
            loopback_origins=settings.environment == "development",
        )

    def admit_host(self, host: str) -> bool:
        """Tell whether a `Host` header names this server; loopback names do, because only this machine can use them."""
        return host.lower() in self.hosts or re.fullmatch(_LOOPBACK_HOST, host.lower()) is not None

    def admit_origin(self, origin: str) -> bool:
        """Tell whether a page of `origin` may call this server."""
        lower = origin.lower()
        return lower in self.origins or (self.loopback_origins and re.fullmatch(LOOPBACK_ORIGIN, lower) is not None)


class Boundary:
    """Check host, origin, sizes and form of what comes before the body.

    Args:
        names: The hosts and origins this server answers to.
        methods: HTTP methods served: without sessions there is nothing to GET or DELETE.
        max_header_bytes: Largest sum of all header names and values.
    """

    def __init__(self, app: ASGIApp, *, names: Names, methods: Sequence[str], max_header_bytes: int) -> None:
        self._app = app
        self._names = names
        self._methods = methods
        self._max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _open(scope)
        answer, inbound = _Answer(send, request.id), _Inbound(receive)
        REQUESTS_IN_FLIGHT.inc()
        try:
            self._check_head(scope, request.headers)
            await self._app(scope, inbound, answer)
            if not answer.started and not inbound.gone:
                raise RuntimeError("no layer answered")
        except Refused as refusal:
            await refuse(answer, refusal)
        except Exception as error:
            log.crash(error)
            if answer.started:
                raise _Cut from None
            text = f"Internal error; quote request {request.id} when you report it"
            await refuse(answer, Refused(500, "crashed", text, INTERNAL_ERROR))
        finally:
            REQUESTS_IN_FLIGHT.dec()
            request.headers.clear()  # a session keeps the request that opened it for as long as it lives

    def _check_head(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if scope["method"] not in self._methods:
            allowed = ", ".join(self._methods)
            raise Refused(405, "wrong_method", f"Use {allowed}", headers=[(b"allow", allowed.encode("ascii"))])
        if not self._names.admit_host(headers.get(b"host", b"").decode("latin-1")):
            raise Refused(
                421,
                "wrong_host",
                "This Host is not served here; the operator can list it in MCP_ALLOWED_HOSTS",
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._names.admit_origin(origin.decode("latin-1")):
            raise Refused(
                403,
                "wrong_origin",
                "This Origin may not call; the operator can list it in MCP_ALLOWED_ORIGINS",
            )
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._max_header_bytes:
            raise Refused(431, "headers_too_large", f"Headers must be at most {self._max_header_bytes} bytes together")
        session_id = headers.get(b"mcp-session-id")
        if session_id is not None and not _SESSION_ID.fullmatch(session_id):
            raise Refused(
                400,
                "bad_session_id",
                "Mcp-Session-Id must be 1 to 128 visible ASCII characters",
                INVALID_REQUEST,
            )
        if scope["method"] == "POST" and _media_type(headers) != b"application/json":
            raise Refused(415, "wrong_content_type", "Content-Type must be application/json", INVALID_REQUEST)


def _media_type(headers: Mapping[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


class _Cut(Exception):
    """The answer had begun when something broke; the server must cut the connection."""


class _Answer:
    """The way out: every response names its request."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message["headers"], self._header]}
        await self._send(message)


class _Inbound:
    """The way in, watched: a client that left needs no answer."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.gone = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message


def _open(scope: Scope) -> Request:
    """Start the request that the layers share, under the edge's id when that is well formed (O3)."""
    headers = dict(reversed(scope["headers"]))
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    request = Request(
        id=given if _REQUEST_ID.fullmatch(given) else requests.new_id(),
        headers=headers,
        trace_parent=requests.trace_parent(headers.get(b"traceparent", b"").decode("latin-1")),
    )
    requests.enter(request)
    return request
