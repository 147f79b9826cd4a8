"""Every request proves by its head alone who sends it: a key, a token or a certificate (A1, A2, A3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Final, Literal

import httpx2
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.auth import assertions, keys
from mcp_chassis.auth.assertions import HEADER, Asserted, Assertions, forged
from mcp_chassis.auth.keys import FileKeyring, Keyring, StoreKeyring, UnreadableKeyring
from mcp_chassis.auth.tokens import InvalidToken, Issuer, IssuerUnavailable, Tokens
from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.http import METADATA_PATH, Challenge
from mcp_chassis.request import EVERY_SCOPE, Caller
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import Store, StoreDown
from mcp_chassis.telemetry.logging import log

Kind = Literal["key", "token", "subject"]
"""What can be revoked: an API key by its id, a token by its `jti`, everything of a subject."""

EXPIRES_HEADER: Final = "x-credential-expires"
"""Tells a monitor when its credential ends, in seconds since 1970, so that it can warn in time (G5)."""

Authenticate = Callable[[Scope], Awaitable[tuple[Caller, Sequence[str]]]]
"""Returns who sent a request, and the names under which its credential may have been revoked; or raises `Refused`."""
ANONYMOUS = Caller(id="anonymous", scopes=frozenset({EVERY_SCOPE}))
"""The one caller of `MCP_AUTH=none`, from whom nothing is kept."""
_ASSERTION: Final = HEADER.encode("ascii")
_PREFIX: Final = "revoked:"
_ISSUER_SECONDS: Final = 3.0
Credentials = Sequence[tuple[Kind, str]]
"""The names under which a credential can be revoked."""
_LONGEST_TOKEN: Final = 8192
_TOKEN: Final = re.compile(rb"[\x21-\x7e]+")
_SUBJECT: Final = assertions.SUBJECT_HEADER.encode("ascii")


@lru_cache(maxsize=4096)
def revocation_name(kind: Kind, what: str) -> str:
    """Return where the store holds that `what` was taken back."""
    # Hashed, because a subject or `jti` is the issuer's text of any length.
    return f"{_PREFIX}{kind}:{hashlib.sha256(what.encode('utf-8')).hexdigest()[:32]}"


class Revocations:
    """The list of what was revoked, in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def revoke(self, kind: Kind, what: str, seconds: float | None) -> None:
        """Take back `what` for `seconds`, or for ever. Raises `StoreDown`."""
        await self._store.write(revocation_name(kind, what), "1", seconds)

    async def revoked(self, *credentials: tuple[Kind, str]) -> bool:
        """Tell whether any of `credentials` was taken back, in one round trip. Raises `StoreDown`."""
        return any(await self._store.read([revocation_name(kind, what) for kind, what in credentials]))


def resource_url(settings: Settings) -> str:
    """Return the server as OAuth clients address it (RFC 8707)."""
    return f"{settings.public_url}/mcp"


def challenge_of(settings: Settings, realm: str) -> Challenge:
    """Return how this server refuses; with an issuer, it tells where to find it."""
    return Challenge(realm, f"{settings.public_url}{METADATA_PATH}" if "jwt" in settings.auth else None)


def authentication_of(
    settings: Settings, *, challenge: Challenge, store: Store, client: httpx2.AsyncClient
) -> Authenticate:
    """Return the authentication that `MCP_AUTH` names.

    Raises:
        ConfigurationError: If the keys file cannot be read.
    """
    if "none" in settings.auth:
        return admit_everyone
    return Authentication(
        challenge=challenge,
        keyring=_keyring(settings, store) if "keys" in settings.auth else None,
        tokens=_tokens(settings, client) if "jwt" in settings.auth else None,
        certificate=_certificate(settings) if "mtls" in settings.auth else None,
    )


def issuer_client() -> httpx2.AsyncClient:
    """Return the HTTP client that fetches an issuer's keys: short, without redirects."""
    return httpx2.AsyncClient(timeout=_ISSUER_SECONDS, follow_redirects=False)


def _keyring(settings: Settings, store: Store) -> Keyring:
    if settings.api_keys_file is None:
        return StoreKeyring(store)
    keyring = FileKeyring(settings.api_keys_file)
    try:
        keyring.records()
    except UnreadableKeyring as error:
        rule = f"must be a keys file ({error}): `ops keys create --caller NAME` writes one"
        raise ConfigurationError([Problem("MCP_API_KEYS_FILE", str(settings.api_keys_file), rule)]) from None
    return keyring


def _tokens(settings: Settings, client: httpx2.AsyncClient) -> Tokens:
    url = settings.jwt_issuer or ""
    issuer = Issuer(url, keys_url=settings.jwt_keys_url, floor=settings.jwt_refresh_floor, client=client)
    return Tokens(issuer, settings.jwt_audiences or (resource_url(settings),), settings)


def _certificate(settings: Settings) -> Callable[[str], Caller]:
    return partial(
        assertions.caller_of,
        tenant_attribute=settings.mtls_tenant_attribute,
        scopes=frozenset(settings.mtls_scopes),
    )


@dataclass(slots=True)
class Authentication:
    """Judge the credential of each request.

    A bearer token goes before a certificate: the client chose to send it.

    Args:
        challenge: How a refused client is told.
        keyring: API keys, if they are a way in.
        tokens: JWTs, if they are.
        certificate: How a verified subject becomes a caller, if the edge checks certificates.
    """

    challenge: Challenge
    keyring: Keyring | None = None
    tokens: Tokens | None = None
    certificate: Callable[[str], Caller] | None = None
    _keys_trouble: str | None = field(default=None, init=False)

    async def __call__(self, scope: Scope) -> tuple[Caller, Sequence[str]]:
        """Return the caller of a request, and the names under which the credential may have been revoked.

        Raises `Refused`: 401 if nothing is proven, 503 if it cannot be judged.
        """
        bearer = self._single(scope, b"authorization")
        subject = self._single(scope, _SUBJECT) if self.certificate is not None else None
        if bearer is not None:
            caller, credentials = await self._by_bearer(self._token(bearer))
        elif self.certificate is not None and subject is not None:
            caller, credentials = self._by_certificate(self.certificate, subject), ()
        else:
            raise self.challenge.unauthenticated("no_credential")
        return caller, [revocation_name(*credential) for credential in (*credentials, ("subject", caller.id))]

    def _single(self, scope: Scope, name: bytes) -> bytes | None:
        """Return the value of a header; two of it could be read as either."""
        values = [value for key, value in scope["headers"] if key == name]
        if len(values) > 1:
            raise self.challenge.unauthenticated("duplicate_credential")
        return values[0] if values else None

    def _token(self, header: bytes) -> str:
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer":
            raise self.challenge.unauthenticated("wrong_scheme")
        if len(token) > _LONGEST_TOKEN:
            raise self.challenge.unauthenticated("oversized_credential")
        if not _TOKEN.fullmatch(token):
            raise self.challenge.unauthenticated("malformed_credential")
        return token.decode("ascii")

    async def _by_bearer(self, token: str) -> tuple[Caller, Credentials]:
        if self.keyring is not None and token.startswith(f"{keys.PREFIX}_"):
            return await self._by_key(self.keyring, token)
        if self.tokens is None:
            raise self.challenge.unauthenticated("malformed_credential")
        try:
            caller, token_id = await self.tokens.check(token)
        except InvalidToken as error:
            raise self.challenge.unauthenticated(str(error)) from None
        except IssuerUnavailable:
            raise self.challenge.undecidable("issuer_unavailable") from None
        return caller, [("token", token_id)] if token_id is not None else []

    async def _by_key(self, keyring: Keyring, token: str) -> tuple[Caller, Credentials]:
        try:
            key_id, secret = keys.split(token)
            record = await keyring.find(key_id)
        except keys.MalformedKey:
            raise self.challenge.unauthenticated("malformed_key") from None
        except StoreDown:
            raise self.challenge.undecidable("keys_unavailable") from None
        except UnreadableKeyring as error:
            if str(error) != self._keys_trouble:
                log.error("keys_unreadable", reason=str(error))
            self._keys_trouble = str(error)
            raise self.challenge.undecidable("keys_unavailable") from None
        self._keys_trouble = None
        if not keys.matches(secret, record) or record is None:
            raise self.challenge.unauthenticated("unknown_key")
        caller = record.caller_at(datetime.now(UTC))
        if caller is None:
            raise self.challenge.unauthenticated("expired")
        return caller, [("key", key_id)]

    def _by_certificate(self, certificate: Callable[[str], Caller], subject: bytes) -> Caller:
        try:
            return certificate(subject.decode("utf-8"))
        except (assertions.InvalidSubject, UnicodeDecodeError):
            raise self.challenge.unauthenticated("malformed_subject") from None


class Identity:
    """Put the caller into the request, and into the scope where the SDK binds sessions to it.

    Args:
        authenticate: Proves who sent a request.
        assertions: Judges what other replicas vouch for, if there are any.
    """

    def __init__(self, app: ASGIApp, *, authenticate: Authenticate, assertions: Assertions | None = None) -> None:
        self._app = app
        self._authenticate = authenticate
        self._assertions = assertions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asserted = self._vouched(scope)
        if asserted is None:
            caller, revocations = await self._authenticate(scope)
        else:
            caller, revocations = asserted.caller, asserted.revocations
        request = requests.entered()
        request.caller, request.revocations, request.asserted = caller, revocations, asserted
        if caller.probing and caller.expires is not None:
            send = _with_header(send, EXPIRES_HEADER, str(int(caller.expires)))
        await self._app(
            {**scope, "user": _user(f"{caller.way}:{caller.id}", caller.tenant, caller.scopes)}, receive, send
        )

    def _vouched(self, scope: Scope) -> Asserted | None:
        """Return what another replica vouches for. A client's assertion is refused like any forged one."""
        given = [value for name, value in scope["headers"] if name == _ASSERTION]
        if not given:
            return None
        if self._assertions is None or len(given) > 1:
            raise forged()
        session = Headers(scope=scope).get("mcp-session-id")
        return self._assertions.judge(given[0].decode("latin-1"), method=scope["method"], session=session)


def _with_header(send: Send, name: str, value: str) -> Send:
    pair = name.encode("ascii"), value.encode("ascii")

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], pair]}
        await send(message)

    return sending


async def admit_everyone(_scope: Scope) -> tuple[Caller, Sequence[str]]:
    """Return the same caller for every request."""
    return ANONYMOUS, ()


@lru_cache(maxsize=1024)
def _user(client: str, tenant: str, scopes: frozenset[str]) -> AuthenticatedUser:
    """Return the caller as the SDK knows it: a session belongs to this client and subject."""
    return AuthenticatedUser(AccessToken(token="", client_id=client, subject=tenant, scopes=sorted(scopes)))
