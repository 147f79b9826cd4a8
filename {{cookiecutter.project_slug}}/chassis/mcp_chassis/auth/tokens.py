"""JSON Web Tokens of an OAuth 2.0 issuer (A5; RFC 9068, RFC 8725)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.exceptions import PyJWTError

from mcp_chassis.auth.issuer import Issuer
from mcp_chassis.request import EVERY_SCOPE, PROBE_SCOPE, Caller

_LONGEST_KEY_ID: Final = 256
_LONGEST_NAME: Final = 256
_TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")
"""What `typ` may say: issuers sign other things with the same keys, logout tokens among them (RFC 8725, 3.11)."""


class InvalidToken(Exception):
    """The token proves nothing; `reason` is a constant word for logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Token:
    """What a valid token says."""

    caller: Caller
    id: str | None


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must fulfil.

    Args:
        issuer: Its `iss`.
        audiences: One of them must be in `aud`.
        algorithms: Signatures admitted, all asymmetric.
        leeway: Seconds by which clocks may differ.
        not_before_required: Whether `nbf` must be there; it is checked whenever it is.
        tenant_claim: The claim that names the tenant; it must be there. None puts everybody into one tenant.
    """

    issuer: str
    audiences: Sequence[str]
    algorithms: Sequence[str]
    leeway: float
    not_before_required: bool
    tenant_claim: str | None


class Tokens:
    """Check tokens of one issuer."""

    def __init__(self, issuer: Issuer, rules: TokenRules) -> None:
        self._issuer = issuer
        self._rules = rules
        required = ["iss", "aud", "exp", "sub"]
        self._required = [*required, "nbf"] if rules.not_before_required else required

    async def check(self, text: str) -> Token:
        """Return what `text` says.

        Raises:
            InvalidToken: If it proves nothing.
            IssuerUnavailable: If the issuer's keys are not known yet.
        """
        key = await self._issuer.key(self._key_id(text))
        if key is None:
            raise InvalidToken("unknown_key")
        try:
            claims = jwt.decode(
                text,
                key,
                algorithms=list(self._rules.algorithms),
                audience=list(self._rules.audiences),
                issuer=self._rules.issuer,
                leeway=self._rules.leeway,
                options={"require": self._required},
            )
        except (PyJWTError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidToken(_REASONS.get(type(error).__name__, "invalid_token")) from None
        return Token(self._caller(claims), _text(claims.get("jti")))

    def _key_id(self, text: str) -> str:
        """Return the `kid` of the token's header, after the header alone has been judged."""
        try:
            header = jwt.get_unverified_header(text)
        except (PyJWTError, TypeError, ValueError, RecursionError):
            raise InvalidToken("malformed_token") from None
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise InvalidToken("wrong_type")
        if header.get("alg") not in self._rules.algorithms:
            raise InvalidToken("algorithm_not_allowed")
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_KEY_ID:
            raise InvalidToken("no_key_id")
        return key_id

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject = _text(claims.get("sub"))
        tenant = "default" if self._rules.tenant_claim is None else _text(claims.get(self._rules.tenant_claim))
        if subject is None:
            raise InvalidToken("bad_subject")
        if tenant is None:
            raise InvalidToken("no_tenant")
        return Caller(subject, tenant, scopes_of(claims), "token")


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes in `scope` (RFC 8693) or `scp` (Entra ID, Okta), as text or list."""
    found: set[str] = set()
    for claim in ("scope", "scp"):
        value = claims.get(claim, ())
        parts = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
        found.update(part for part in parts if isinstance(part, str))
    # An issuer may not hand out what only this server's own configuration can.
    return frozenset(found - {EVERY_SCOPE, PROBE_SCOPE})


def _text(value: object) -> str | None:
    """Return a name that may stand in a log line, or None."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable() else None


_REASONS: Final = {
    "ExpiredSignatureError": "expired",
    "ImmatureSignatureError": "not_yet_valid",
    "InvalidAudienceError": "wrong_audience",
    "InvalidIssuerError": "wrong_issuer",
    "InvalidSignatureError": "wrong_signature",
    "MissingRequiredClaimError": "missing_claim",
    "InvalidAlgorithmError": "algorithm_not_allowed",
    "InvalidKeyError": "algorithm_not_allowed",
    "TypeError": "algorithm_not_allowed",
    "DecodeError": "malformed_token",
}
