"""What the layers of one request share (O1).

The outermost layer opens a `Request`; every layer below, the tool included, reads it with `current()`.
The SDK copies context variables into its handler tasks, so all of them see the same object.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

if TYPE_CHECKING:
    from mcp_chassis.auth.assertions import Asserted
    from mcp_chassis.places import Place

Status = Literal["ok", "failed", "rejected", "timeout", "cancelled", "crashed"]
"""How a message ended: `failed` is the author's own refusal, `rejected` is ours before the tool ran."""


_TRACE_PARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
EVERY_SCOPE: Final = "*"
"""Held by callers that nothing is kept from; no token of an issuer can carry it."""
PROBE_SCOPE: Final = "probe"
"""Held by a monitor's credential: it may shake hands, list and call ping, nothing else (A7)."""


JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"
_HANDSHAKE_VERSIONS: Final = frozenset(version.encode("ascii") for version in HANDSHAKE_PROTOCOL_VERSIONS)
Wish = Literal["json", "events", "either"]
Way = Literal["none", "key", "token", "certificate"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Args:
        id: Stable name of the caller; it appears in logs.
        tenant: Whose data the caller works on.
        scopes: What the caller may do.
        way: How it proved who it is: the same name proven in another way is somebody else (A8).
        expires: When its credential ends, in seconds since 1970, if that is known.
    """

    id: str
    tenant: str = "default"
    scopes: frozenset[str] = frozenset()
    way: Way = field(default="none", compare=False)
    expires: float | None = field(default=None, compare=False)

    @property
    def identity(self) -> tuple[str, str, str]:
        """Who it is, not what it may do: scopes change with every new token."""
        return self.way, self.id, self.tenant

    @property
    def probing(self) -> bool:
        """Whether it is a monitor's credential, which is never counted (A7)."""
        return PROBE_SCOPE in self.scopes

    def missing(self, needed: frozenset[str]) -> frozenset[str]:
        """Return those of `needed` that the caller does not hold."""
        return frozenset() if EVERY_SCOPE in self.scopes else needed - self.scopes


LOCAL = Caller(id="local", scopes=frozenset({EVERY_SCOPE}))
"""The caller of a transport without credentials: stdio and in-process tests."""


STRANGER = Caller(id="unknown")
"""The caller of a request before anything is proven; it may do nothing."""


@dataclass(frozen=True, slots=True)
class Message:
    """The parts of a JSON-RPC body that decisions need; nothing of its arguments."""

    method: str | None
    id: str | int | None
    tool: str | None


class DownstreamCall(TypedDict):
    """What a request did elsewhere; the operation is told by its hash alone."""

    service: str
    operation_hash: str
    duration_ms: float
    status: str


@dataclass(slots=True)
class Request:
    """One request on its way through the layers."""

    id: str
    headers: dict[bytes, bytes] = field(default_factory=dict)
    """The first value of each header, looked up here because a scope has only a list."""
    caller: Caller = STRANGER
    revocations: Sequence[str] = ()
    """The names under which the store may hold that its credential was taken back."""
    judged: bool = False
    """True once admission took one request of its caller."""
    room_at: float = 0.0
    """When its caller has room for another request, on the monotonic clock."""
    message: Message | None = None
    place: Place | None = None
    """What it takes up of the calls that may run; the call itself holds it too, because it may outlive the request."""
    answer_only: bool = False
    """True if nothing but its answer can come of it, so that it needs no stream."""
    session_id: str | None = None
    asserted: Asserted | None = None
    """What another replica vouches for, if it forwarded the request."""
    trace_parent: str | None = None
    """W3C `traceparent`, well formed, of the message or of the HTTP request."""
    initialized: bool = False
    """True once the SDK accepted the `initialize` that this request carried."""
    status: Status = "ok"
    error_code: str | None = None
    notifications_sent: int = 0
    downstream_calls: list[DownstreamCall] = field(default_factory=list)

    @property
    def trace_id(self) -> str | None:
        """The trace that this request is part of."""
        return None if self.trace_parent is None else self.trace_parent.split("-")[1]

    @property
    def handshake_era(self) -> bool:
        """The era, told as the SDK does: by the header alone."""
        version = self.headers.get(b"mcp-protocol-version")
        return version is None or version in _HANDSHAKE_VERSIONS

    @property
    def probing(self) -> bool:
        """Whether a monitor asks (A7)."""
        return self.caller.probing


_current: ContextVar[Request | None] = ContextVar("mcp_chassis_request", default=None)
local_caller: ContextVar[Caller] = ContextVar("mcp_chassis_local_caller", default=LOCAL)
"""Whom a connection without HTTP speaks for."""


def trace_parent(text: object) -> str | None:
    """Return a `traceparent` that is well formed (W3C Trace Context, 3.2), or None."""
    return text if isinstance(text, str) and _TRACE_PARENT.fullmatch(text) else None


def new_id() -> str:
    """Return a fresh request id: 128 random bits in hexadecimal, which nobody is kept from guessing."""
    return f"{random.getrandbits(128):032x}"


def current() -> Request | None:
    """Return the request being served, or None outside of one."""
    return _current.get()


def entered() -> Request:
    """Return the request being served, which the first layer opened for all others.

    Raises:
        LookupError: Outside of one.
    """
    request = _current.get()
    if request is None:
        raise LookupError("no request is being served")
    return request


def current_caller() -> Caller:
    """Return who calls: the request's caller, or whom a connection without HTTP speaks for."""
    request = _current.get()
    return local_caller.get() if request is None else request.caller


def enter(request: Request) -> None:
    """Make `request` the current one for this task and the tasks it starts."""
    _current.set(request)


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
