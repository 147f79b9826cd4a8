"""How a layer says no, an HTTP status and a JSON-RPC error that names the request (E1); and who is meant by it (T7)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic_core import to_json
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Scope, Send
from starlette.types import Message as Event

from mcp_chassis import request as requests
from mcp_chassis.errors import REFUSED, retry_meta
from mcp_chassis.places import Full, Place, Places
from mcp_chassis.request import Caller, Message
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry import REFUSALS
from mcp_chassis.telemetry.logging import log

_PROBE_METHODS: Final = frozenset(
    {
        *("initialize", "notifications/initialized", "server/discover", "ping"),
        *("tools/list", "prompts/list", "resources/list", "resources/templates/list"),
    }
)
_PROBE_TOOL: Final = "ping"
_RETRY_AFTER: Final = 5
"""Seconds until an undecidable credential is worth another try."""
_LOOPBACK_HOST: Final = r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
LOOPBACK_ORIGIN: Final = rf"https?://{_LOOPBACK_HOST}"
"""Pages a developer serves on the own machine, the MCP Inspector among them."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
METADATA_PATH: Final = "/.well-known/oauth-protected-resource/mcp"
"""Where RFC 9728, 3.1 puts the metadata of a resource whose path is /mcp."""


def metadata_route(*, resource: str, issuer: str, scopes: Iterable[str]) -> Route:
    """Return the route of the protected resource's metadata; it needs no credential.

    Args:
        resource: The server as clients address it, such as `https://notes.example.com/mcp`.
        issuer: The authorization server.
        scopes: All scopes that tools need.
    """
    document = {
        "resource": resource,
        "authorization_servers": [issuer],
        "scopes_supported": sorted(scopes),
        "bearer_methods_supported": ["header"],
    }

    async def answer(_request: Request) -> JSONResponse:
        return JSONResponse(document, headers={"Cache-Control": "max-age=300"})

    # Any page may read it, with any header: a browser client needs it before it has an origin we know.
    readable = CORSMiddleware(request_response(answer), allow_origins=["*"], allow_headers=["*"])
    return Route(METADATA_PATH, endpoint=readable, methods=["GET", "OPTIONS"])


class Authorization:
    """Hold callers to their scopes.

    Args:
        challenge: How a refused client is told.
        needed: Returns the scopes that a tool needs.
    """

    def __init__(self, challenge: Challenge, needed: Callable[[str], frozenset[str]]) -> None:
        self._challenge = challenge
        self._needed = needed

    def __call__(self, caller: Caller, message: Message | None) -> None:
        """Let the message pass.

        Raises:
            Refused: 403 if the caller lacks a scope.
        """
        if message is None or message.method is None:
            return
        if caller.probing and not self._probing(message):
            raise self._challenge.forbidden(())
        if message.tool is not None and caller.missing(needed := self._needed(message.tool)):
            raise self._challenge.forbidden(needed)

    def _probing(self, message: Message) -> bool:
        return message.method in _PROBE_METHODS or (message.method == "tools/call" and message.tool == _PROBE_TOOL)


class Challenge:
    """Refusals of one server, with the `WWW-Authenticate` that fits each.

    Args:
        realm: The server's name.
        metadata_url: Where the RFC 9728 metadata is; None where there is no issuer to find.
    """

    def __init__(self, realm: str, metadata_url: str | None) -> None:
        # A server's name is any text; a header's quoted text is not (RFC 9110, 5.6.4).
        self._realm = re.sub(r'[^ -~]|["\\]', "?", realm)
        self._metadata_url = metadata_url

    def unauthenticated(self, reason: str) -> Refused:
        """Refuse a request without a credential that proves anything: 401.

        Args:
            reason: Constant word for logs; a client that did not try is told of no error, as RFC 6750, 3.1 asks.
        """
        error = {} if reason in ("no_credential", "wrong_scheme") else {"error": "invalid_token"}
        message = "Authentication is needed" if not error else "The credential is not valid"
        return Refused(401, reason, message, headers=[self._header(error)])

    def forbidden(self, needed: Iterable[str]) -> Refused:
        """Refuse a call beyond the caller's scopes: 403, naming every scope the call needs (A11)."""
        scope = " ".join(sorted(needed))
        return Refused(
            403,
            "insufficient_scope",
            f"This call needs the scope {scope}" if scope else "A probe may list and ping, nothing else",
            # A probe lacks no scope: told of an error, its client would ask the issuer for more.
            headers=[self._header({"error": "insufficient_scope", "scope": scope} if scope else {})],
        )

    def undecidable(self, reason: str) -> Refused:
        """Refuse for now what cannot be judged: 503, because 401 would make clients throw their token away (A3)."""
        text = f"The credential cannot be checked now; try again in {_RETRY_AFTER} s"
        return Refused(503, reason, text, retry_after=_RETRY_AFTER, estimate=True)

    def _header(self, parameters: dict[str, str]) -> tuple[bytes, bytes]:
        found = {"realm": self._realm, **parameters}
        if self._metadata_url is not None:
            found["resource_metadata"] = self._metadata_url
        text = ", ".join(f'{name}="{value}"' for name, value in found.items())
        return b"www-authenticate", f"Bearer {text}".encode("ascii")


class Refused(Exception):
    """A request that goes no further.

    Args:
        status: HTTP status.
        reason: Constant word for logs, such as `body_too_large`.
        message: What is wrong and what to do, for the client; nothing that the client sent.
        code: JSON-RPC error code.
        headers: Further response headers.
        retry_after: Seconds after which the same request is welcome.
        estimate: Whether nobody can know that time.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        code: int = REFUSED,
        headers: Sequence[tuple[bytes, bytes]] = (),
        retry_after: float | None = None,
        estimate: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.code = status, reason, message, code
        self.headers = list(headers)
        self.data: dict[str, object] = {"reason": reason}
        if retry_after is not None:
            self.headers.append((b"retry-after", b"%d" % math.ceil(retry_after)))
            self.data |= retry_meta(retry_after, estimate=estimate)


async def refuse(send: Send, refusal: Refused) -> None:
    """Answer with `refusal` and write one line about it."""
    request = requests.current()
    log.warning("request_refused", http_status=refusal.status, reason=refusal.reason)
    id = None if request is None or request.message is None else request.message.id
    number = None if request is None else request.id
    body = error_of(id, refusal.code, refusal.message, **refusal.data, requestId=number)
    await send_json(send, body, refusal.headers, status=refusal.status)


def error_of(id: str | int | None, code: int, message: str, **data: object) -> bytes:
    """Return a JSON-RPC error as the body of an answer."""
    error = {"code": code, "message": message, **({"data": data} if data else {})}
    return to_json({"jsonrpc": "2.0", "id": id, "error": error})


async def send_json(send: Send, body: bytes, headers: Sequence[tuple[bytes, bytes]], *, status: int = 200) -> None:
    """Send `body` as one JSON answer."""
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


def event_of(data: bytes) -> bytes:
    """Return one event that holds a message."""
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"


async def send_inside(app: ASGIApp, scope: Scope, body: bytes = b"") -> None:
    """Send one request and drop its answer.

    Args:
        app: The layers below.
        scope: The request.
        body: Its body.
    """
    pending: list[Event] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": body, "more_body": False},
    ]

    async def receive() -> Event:
        return pending.pop() if len(pending) > 1 else pending[0]

    async def drop(_message: Event) -> None:
        return None

    await app(scope, receive, drop)


def place_for(
    caller: Caller, places: Places, what: Literal["sessions", "streams", "calls"], retry_after: float
) -> Place:
    """Return a place.

    Args:
        caller: For whom.
        places: Where.
        what: What is opened.
        retry_after: Seconds told to who comes too late; nobody knows when a place will be free.

    Raises:
        Refused: 429 if the caller holds all that one may, 503 if all are taken.
    """
    try:
        return places.take(caller.identity)
    except Full as full:
        REFUSALS.labels(what).inc()
        status, reason = (429, f"too_many_{what}_of_caller") if full.own else (503, f"too_many_{what}")
        text = f"{'You have too many' if full.own else 'All'} {what} {'open' if full.own else 'are taken'}"
        hint = f"{text}; end one, or try again in about {retry_after:g} s"
        raise Refused(status, reason, hint, retry_after=retry_after, estimate=True) from None


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
