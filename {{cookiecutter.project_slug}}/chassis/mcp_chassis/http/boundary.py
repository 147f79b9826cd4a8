"""The first layer of `/mcp`: the head of a request is bounded, well formed and meant for us (T7, E2).

It opens the request that all layers share, and no exception passes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import httptools
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from mcp_chassis import request as requests
from mcp_chassis.http import Names, Refused, refuse
from mcp_chassis.request import Request
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry import REQUESTS_IN_FLIGHT
from mcp_chassis.telemetry.logging import log

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_LINE: Final = 8192
"""Bytes beside the headers; what is larger than both is cut by the connection, not answered by the boundary."""
_OF_UPGRADES: Final = frozenset({b"connection", b"upgrade", b"http2-settings"})
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class BoundedConnection(HttpToolsProtocol):
    """A connection that cuts clients slower than its two timeouts, in seconds, and what is no body past its bound.

    llhttp and uvicorn leave open what this class refuses or does without: heads and trailers of any length, two hosts,
    codings that nobody undoes, a body taken for the next request after an upgrade that is not served.
    """

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
        self._no_body = 0
        self._answering: RequestResponseCycle | None = None

    @property
    def unread(self) -> bool:
        """Whether the end of an answer waits for its client to read."""
        ended = self._answering is not None and self._answering.response_complete
        return ended and self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start("headers", self.receive_timeout)

    def data_received(self, data: bytes) -> None:
        newest = vars(self)["cycle"]
        if newest is None or newest.response_complete:
            self._start("headers", self.receive_timeout)
        self._no_body += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if vars(self)["cycle"] is not newest:
            self._stop("headers")
        if self._no_body > self.max_head_bytes and not self.transport.is_closing():
            self.send_400_response("Request head too large.")

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_again(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _parse_again(self, rest: bytes) -> None:
        """Read a head as if it asked for no other protocol, as a server may (RFC 9110, 7.8): else it has no body."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is not served.")
            return
        kept = [(name, value) for name, value in self._head if name not in _OF_UPGRADES]
        if any(b"close" in value.lower() for name, value in self._head if name == b"connection"):
            kept.append((b"connection", b"close"))
        version = self.parser.get_http_version().encode("ascii")
        lines = [b"%b %b HTTP/%b" % (method, self.url, version), *(b"%b: %b" % pair for pair in kept)]
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join([*lines, b"", b""]) + rest)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))  # no part of it (RFC 9110, 5.5), and llhttp leaves it

    def on_headers_complete(self) -> None:
        self._no_body = 0
        # What comes after the body under the names of headers is nobody's: layers decide by the head alone.
        self._head, self.headers = self.headers, []
        if self.parser.should_upgrade():
            return
        names = [name for name, _ in self._head]
        codings = [value.lower() for name, value in self._head if name == b"transfer-encoding"]
        version = self.parser.get_http_version()
        known = codings in ([], [b"chunked"]) and version in (("1.1",) if codings else ("1.0", "1.1"))
        if not known or names.count(b"host") > 1 or not self.url.startswith(b"/"):
            raise ValueError("not served")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._no_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer and close; where an answer has begun, nothing else may be written into it."""
        running = self._answering
        if running is not None and running.response_started and not running.response_complete:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

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
        # uvicorn tells the newest request alone, which may be one that waits for this one's answer.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

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
        if scope["http_version"] == "1.0":
            text = "Use HTTP/1.1, which has the chunks that streams need; nginx does with proxy_http_version 1.1"
            raise Refused(505, "http_too_old", text)
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
    """The way out: every response names its request, and none is kept by anybody in between."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = [*message["headers"], self._header]
            if b"cache-control" not in dict(headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
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
