"""Every request proves who sends it, by a key, a token or a certificate (A1, A2, A3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from starlette.types import Scope

from mcp_chassis.auth import certificates, keys
from mcp_chassis.auth.challenge import Challenge
from mcp_chassis.auth.issuer import IssuerUnavailable
from mcp_chassis.auth.keyring import Keyring, UnreadableKeyring
from mcp_chassis.auth.revocation import Kind, revocation_name
from mcp_chassis.auth.tokens import InvalidToken, Tokens
from mcp_chassis.request import Caller
from mcp_chassis.state.store import StoreDown
from mcp_chassis.telemetry.logging import log

Credentials = Sequence[tuple[Kind, str]]
"""The names under which a credential can be revoked."""

_LONGEST_TOKEN: Final = 8192


class Authentication:
    """Judge the credential of each request.

    A bearer token goes before a certificate: the client chose to send it.

    Args:
        challenge: How a refused client is told.
        keyring: API keys, if they are a way in.
        tokens: JWTs, if they are.
        certificate: How a verified subject becomes a caller, if the edge checks certificates.
    """

    def __init__(
        self,
        *,
        challenge: Challenge,
        keyring: Keyring | None = None,
        tokens: Tokens | None = None,
        certificate: Callable[[str], Caller] | None = None,
    ) -> None:
        self._challenge = challenge
        self._keyring = keyring
        self._tokens = tokens
        self._certificate = certificate
        self._keys_trouble: str | None = None

    async def __call__(self, scope: Scope) -> tuple[Caller, Sequence[str]]:
        """Return the caller of a request, and the names under which the credential may have been revoked.

        Raises:
            Refused: 401 if nothing is proven, 503 if it cannot be judged.
        """
        bearer = self._single(scope, b"authorization")
        subject = self._single(scope, certificates.HEADER.encode("ascii")) if self._certificate is not None else None
        if bearer is not None:
            caller, credentials = await self._by_bearer(self._token(bearer))
        elif subject is not None:
            caller, credentials = self._by_certificate(subject)
        else:
            raise self._challenge.unauthenticated("no_credential")
        return caller, [revocation_name(*credential) for credential in (*credentials, ("subject", caller.id))]

    def _single(self, scope: Scope, name: bytes) -> bytes | None:
        """Return the value of a header; two of it could be read as either."""
        values = [value for key, value in scope["headers"] if key == name]
        if len(values) > 1:
            raise self._challenge.unauthenticated("duplicate_credential")
        return values[0] if values else None

    def _token(self, header: bytes) -> str:
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer":
            raise self._challenge.unauthenticated("wrong_scheme")
        if len(token) > _LONGEST_TOKEN:
            raise self._challenge.unauthenticated("oversized_credential")
        if not token.isascii() or not token or any(letter <= 32 or letter == 127 for letter in token):
            raise self._challenge.unauthenticated("malformed_credential")
        return token.decode("ascii")

    async def _by_bearer(self, token: str) -> tuple[Caller, Credentials]:
        if self._keyring is not None and token.startswith(f"{keys.PREFIX}_"):
            return await self._by_key(self._keyring, token)
        if self._tokens is None:
            raise self._challenge.unauthenticated("malformed_credential")
        try:
            found = await self._tokens.check(token)
        except InvalidToken as error:
            raise self._challenge.unauthenticated(error.reason) from None
        except IssuerUnavailable:
            raise self._challenge.undecidable("issuer_unavailable") from None
        return found.caller, [("token", found.id)] if found.id is not None else []

    async def _by_key(self, keyring: Keyring, token: str) -> tuple[Caller, Credentials]:
        try:
            key_id, secret = keys.split(token)
            record = await keyring.find(key_id)
        except keys.MalformedKey:
            raise self._challenge.unauthenticated("malformed_key") from None
        except StoreDown:
            raise self._challenge.undecidable("keys_unavailable") from None
        except UnreadableKeyring as error:
            if str(error) != self._keys_trouble:
                log.error("keys_unreadable", reason=str(error))
            self._keys_trouble = str(error)
            raise self._challenge.undecidable("keys_unavailable") from None
        self._keys_trouble = None
        if not keys.matches(secret, record) or record is None:
            raise self._challenge.unauthenticated("unknown_key")
        caller = record.caller_at(datetime.now(UTC))
        if caller is None:
            raise self._challenge.unauthenticated("expired")
        return caller, [("key", key_id)]

    def _by_certificate(self, subject: bytes) -> tuple[Caller, Credentials]:
        try:
            if self._certificate is None:
                raise certificates.InvalidSubject
            return self._certificate(subject.decode("utf-8")), []
        except (certificates.InvalidSubject, UnicodeDecodeError):
            raise self._challenge.unauthenticated("malformed_subject") from None
