"""What a request carries on another's word: the edge's about a certificate (A6), a replica's about a caller (S5).

A replica speaks by a short-lived JSON Web Token under a shared secret: who calls, by which method, in which session,
with which body, for which replica. It travels one hop, and once.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import jwt
from pydantic import BaseModel, ValidationError

from mcp_chassis.http import Refused
from mcp_chassis.pins import digest
from mcp_chassis.request import Caller, Request, Way

SUBJECT_HEADER: Final = "x-client-subject"
"""Set by the edge after it verified a certificate, and removed from everything that comes from outside.

The server listens on loopback and shares its network namespace with the edge alone, so nobody else can send it.
"""

_LONGEST: Final = 512
_ATTRIBUTE: Final = re.compile(
    r" *([A-Za-z][A-Za-z0-9-]{0,63}|[0-9.]{1,64}) *= *"
    r"((?:\\(?:[0-9A-Fa-f]{2}|[^0-9A-Za-z])|[^,+\\\";<> ]| +(?![ ,+]|$))*) *"
)
"""A name and its value up to the next `,` or `+`; spaces around the value are not part of it unless escaped."""
_ESCAPED: Final = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)")
HEADER: Final = "x-peer-assertion"
_LIFETIME: Final = 10
_LEEWAY: Final = 5
"""Seconds by which two replicas' clocks may differ."""
_ALGORITHM: Final = "HS256"
_REQUIRED: Final = ("iss", "aud", "iat", "exp", "jti", "sub")


class InvalidSubject(Exception):
    """The header does not hold a distinguished name with the attributes that name a caller."""


def caller_of(subject: str, *, tenant_attribute: str | None, scopes: frozenset[str]) -> Caller:
    """Return the caller that a verified subject names.

    Args:
        subject: Distinguished name as RFC 4514 writes it, such as `CN=agent-7,O=acme`.
        tenant_attribute: The attribute that names the tenant; None puts everybody into one tenant.
        scopes: What callers with a certificate may do; a certificate names nobody's scopes.

    Raises:
        InvalidSubject: If `CN` or the tenant is missing, empty or there twice.
    """
    attributes = _attributes(subject)
    name = _single(attributes, "CN")
    tenant = "default" if tenant_attribute is None else _single(attributes, tenant_attribute.upper())
    return Caller(name, tenant, scopes, "certificate")


def _attributes(subject: str) -> list[tuple[str, str]]:
    if len(subject) > _LONGEST or not subject.isprintable():
        raise InvalidSubject
    found = []
    position = 0
    while position <= len(subject):
        part = _ATTRIBUTE.match(subject, position)
        if part is None or subject[part.end() : part.end() + 1] not in ("", ",", "+"):
            raise InvalidSubject
        found.append((part.group(1).upper(), part.group(2)))
        position = part.end() + 1
    return found


def _unescaped(value: str) -> str:
    """Return the text that was written with `\\,` or with `\\C3\\BC`, the bytes of UTF-8 (RFC 4514, 2.4)."""
    if value.startswith("#"):
        raise InvalidSubject  # the bytes of a value that is no text

    def plain(escape: re.Match[str]) -> str:
        pairs = escape.group(1)
        return escape.group(2) if pairs is None else bytes.fromhex(pairs.replace("\\", "")).decode("utf-8")

    try:
        text = _ESCAPED.sub(plain, value)
    except UnicodeDecodeError:
        raise InvalidSubject from None
    if not text.isprintable():
        raise InvalidSubject
    return text


def _single(attributes: list[tuple[str, str]], wanted: str) -> str:
    values = [value for name, value in attributes if name == wanted]
    if len(values) != 1 or not values[0]:
        raise InvalidSubject
    return _unescaped(values[0])


class _Claims(BaseModel, frozen=True, strict=True):
    sub: str
    tenant: str
    scopes: list[str]
    way: Way
    revocations: list[str]
    method: str
    session: str
    body: str
    jti: str
    exp: int


@dataclass(frozen=True, slots=True)
class Asserted:
    """What a replica vouches for.

    Args:
        caller: Who sent the request.
        revocations: The names under which the store may hold that the credential was taken back.
        digest: SHA-256 of the body, in hexadecimal.
    """

    caller: Caller
    revocations: Sequence[str]
    digest: str

    def check_body(self, body: bytes) -> None:
        """Raise `Refused` if `body` is not the one that was forwarded."""
        if not hmac.compare_digest(digest(body), self.digest):
            raise forged()


class Assertions:
    """Sign for other replicas, and judge what they signed.

    Args:
        secrets: Shared by all replicas, newest first: the first signs, each verifies.
        server: The server's name.
        url: Where other replicas reach this one.
    """

    def __init__(self, secrets: Sequence[str], *, server: str, url: str) -> None:
        self._secrets = secrets
        self._server = server
        self._url = url
        self._used: dict[str, int] = {}

    def sign(self, request: Request, *, method: str, session: str, body: bytes, audience: str) -> str:
        """Return the assertion for one request to the replica at `audience`."""
        now = int(time.time())
        caller = request.caller
        claims = _Claims(
            sub=caller.id,
            tenant=caller.tenant,
            scopes=sorted(caller.scopes),
            way=caller.way,
            revocations=list(request.revocations),
            method=method,
            session=session,
            body=digest(body),
            jti=secrets.token_hex(16),
            exp=now + _LIFETIME,
        )
        whole = {**claims.model_dump(), "iss": self._server, "aud": audience, "iat": now}
        return jwt.encode(whole, self._secrets[0], _ALGORITHM)

    def judge(self, token: str, *, method: str, session: str | None) -> Asserted:
        """Return what the assertion of a request says.

        Raises:
            Refused: 403 unless a replica of this server says it now, for the first time, to this one, of this request.
        """
        claims = self._claims(token)
        if claims is None or (claims.method, claims.session) != (method, session) or not self._first_time(claims):
            raise forged()
        caller = Caller(claims.sub, claims.tenant, frozenset(claims.scopes), claims.way)
        return Asserted(caller, claims.revocations, claims.body)

    def _claims(self, token: str) -> _Claims | None:
        for secret in self._secrets:
            try:
                decoded = jwt.decode(
                    token,
                    secret,
                    algorithms=[_ALGORITHM],
                    audience=self._url,
                    issuer=self._server,
                    leeway=_LEEWAY,
                    options={"require": list(_REQUIRED)},
                )
                return _Claims.model_validate(decoded)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, ValidationError):
                return None
        return None

    def _first_time(self, claims: _Claims) -> bool:
        now = time.time()
        # In the order they came, which is nearly that of their ends.
        for used, end in list(self._used.items()):
            if end + _LEEWAY >= now:
                break
            del self._used[used]
        if claims.jti in self._used:
            return False
        self._used[claims.jti] = claims.exp
        return True


def forged() -> Refused:
    """Return how an assertion is refused that no replica signed for this request."""
    return Refused(403, "bad_peer_assertion", "X-Peer-Assertion is for replicas of this server; send none")
