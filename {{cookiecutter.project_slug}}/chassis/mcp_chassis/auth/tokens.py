"""JSON Web Tokens of an OAuth 2.0 issuer (A5; RFC 9068, RFC 8725)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import AllowedPublicKeys
from jwt.exceptions import PyJWTError
from pydantic_core import from_json

from mcp_chassis.request import EVERY_SCOPE, PROBE_SCOPE, Caller
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry.logging import log

VerifyingKey = PyJWK | AllowedPublicKeys
"""With its algorithm if the issuer names one; a plain RSA key may verify with any that the settings admit."""

_FETCH_SECONDS: Final = 5.0
_SHORTEST_RSA_KEY: Final = 2048
"""Bits (RFC 7518, 3.3)."""
_LARGEST_ANSWER: Final = 262_144
_OLDEST: Final = 3600.0
"""Seconds after which keys are fetched again, so that a withdrawn key stops working."""
_LONGEST_KEY_ID: Final = 256
_LONGEST_NAME: Final = 256
_TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")
"""What `typ` may say: issuers sign other things with the same keys, logout tokens among them (RFC 8725, 3.11)."""
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


class IssuerUnavailable(Exception):
    """No key of the issuer was ever seen, so no token can be judged."""


class _Unusable(Exception):
    """The issuer's answer holds no keys to trust; the text is a constant word for logs."""


class Issuer:
    """The keys behind one issuer URL.

    Args:
        url: The issuer, as tokens name it.
        keys_url: Where its JWKS is; found by discovery when None.
        floor: Seconds between two fetches: unknown key ids are the caller's text and must not become a flood.
        client: HTTP client to fetch with.
    """

    def __init__(self, url: str, *, keys_url: str | None, floor: float, client: httpx2.AsyncClient) -> None:
        self.url = url
        self._keys_url = keys_url
        self._floor = floor
        self._client = client
        self._keys: dict[str, VerifyingKey] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._answers = True
        self._lock = anyio.Lock()

    async def key(self, key_id: str) -> VerifyingKey | None:
        """Return the key called `key_id`, or None if the issuer has none of that name.

        Raises:
            IssuerUnavailable: If the issuer has never answered, or does not now, so that a newer key may be real.
        """
        known = self._keys.get(key_id)
        if known is not None and (not self._stale() or self._lock.locked()):
            # While somebody asks a slow issuer for newer keys, the old ones do.
            return known
        async with self._lock:
            if (key_id not in self._keys or self._stale()) and self._may_try():
                await self._refresh()
        if self._fetched is None or (key_id not in self._keys and not self._answers):
            raise IssuerUnavailable(self.url)
        return self._keys.get(key_id)

    def _stale(self) -> bool:
        return self._fetched is None or time.monotonic() - self._fetched > _OLDEST

    def _may_try(self) -> bool:
        return self._tried is None or time.monotonic() - self._tried >= self._floor

    async def _refresh(self) -> None:
        """Fetch the keys; on any failure the old ones stay."""
        try:
            with anyio.fail_after(_FETCH_SECONDS):
                keys_url = self._keys_url or await self._discover()
                self._keys = _usable_keys(await self._get(keys_url))
        except (TimeoutError, httpx2.TimeoutException):
            self._note("too_slow")
        except (httpx2.HTTPError, OSError):
            self._note("unreachable")
        except (ValueError, httpx2.InvalidURL):
            self._note("malformed")
        except _Unusable as error:
            self._note(str(error))
        else:
            self._fetched = time.monotonic()
            self._note(None)
        finally:
            # From the end, so that those who waited for a slow issuer do not ask it again one by one.
            self._tried = time.monotonic()

    def _note(self, trouble: str | None) -> None:
        """Write one line per change, not per fetch."""
        if (trouble is None) != self._answers:
            self._answers = trouble is None
            if trouble is None:
                log.info("issuer_answers")
            else:
                log.error("issuer_silent", reason=trouble)

    async def _discover(self) -> str:
        """Return the JWKS URL from the issuer's metadata (OpenID Connect Discovery 1.0, 4.3)."""
        metadata = await self._get(f"{self.url.rstrip('/')}/.well-known/openid-configuration")
        found = metadata.get("jwks_uri")
        if metadata.get("issuer") != self.url or not isinstance(found, str):
            raise _Unusable("another_issuer")
        parts = urlsplit(found)
        if parts.scheme != urlsplit(self.url).scheme or parts.port == 0:
            # The keys must not be fetched less safely than the metadata.
            raise _Unusable("unsafe_keys_url")
        return found

    async def _get(self, url: str) -> dict[str, object]:
        """Return a JSON object, refusing redirects and answers too large to be one."""
        body = b""
        # Not compressed: a small answer must not become a large one.
        async with self._client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            if answer.status_code != 200:
                raise _Unusable("wrong_status")
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    raise _Unusable("too_large")
        value = from_json(body)
        if not isinstance(value, dict):
            raise _Unusable("malformed")
        return value


def _usable_keys(answer: dict[str, object]) -> dict[str, VerifyingKey]:
    """Return the asymmetric signature keys by their id; what cannot be used is left out."""
    listed = answer.get("keys")
    found: dict[str, VerifyingKey] = {}
    for jwk in listed if isinstance(listed, list) else ():
        if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP") or jwk.get("use", "sig") != "sig":
            continue
        try:
            key = PyJWK(jwk)
        except (PyJWTError, ValueError, TypeError, AttributeError):
            continue
        weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < _SHORTEST_RSA_KEY
        if isinstance(key.key_id, str) and key.key_id and not weak:
            found[key.key_id] = key if jwk.get("alg") else key.key
    if not found:
        raise _Unusable("no_keys")
    return found


class InvalidToken(Exception):
    """The token proves nothing; the text is a constant word for logs."""


class Tokens:
    """Check tokens of one issuer.

    Args:
        issuer: Who must have signed them.
        audiences: One of them must be in `aud`.
        settings: Hold the other rules: `jwt_algorithms`, `jwt_leeway`, `jwt_not_before`, `jwt_tenant_claim`.
    """

    def __init__(self, issuer: Issuer, audiences: Sequence[str], settings: Settings) -> None:
        self._issuer = issuer
        self._audiences = audiences
        self._settings = settings
        required = ["iss", "aud", "exp", "sub"]
        # Checked whenever it is there, also where it may be missing.
        self._required = [*required, "nbf"] if settings.jwt_not_before == "required" else required

    async def check(self, text: str) -> tuple[Caller, str | None]:
        """Return whom `text` speaks for, and its `jti`.

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
                algorithms=list(self._settings.jwt_algorithms),
                audience=list(self._audiences),
                issuer=self._issuer.url,
                leeway=self._settings.jwt_leeway,
                options={"require": self._required},
            )
        except (PyJWTError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidToken(_REASONS.get(type(error).__name__, "invalid_token")) from None
        return self._caller(claims), _text(claims.get("jti"))

    def _key_id(self, text: str) -> str:
        """Return the `kid` of the token's header, after the header alone has been judged."""
        try:
            header = jwt.get_unverified_header(text)
        except (PyJWTError, TypeError, ValueError, RecursionError):
            raise InvalidToken("malformed_token") from None
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise InvalidToken("wrong_type")
        if header.get("alg") not in self._settings.jwt_algorithms:
            raise InvalidToken("algorithm_not_allowed")
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_KEY_ID:
            raise InvalidToken("no_key_id")
        return key_id

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject = _text(claims.get("sub"))
        claim = self._settings.jwt_tenant_claim
        tenant = "default" if claim is None else _text(claims.get(claim))
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
