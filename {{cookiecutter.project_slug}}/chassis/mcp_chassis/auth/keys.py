"""API keys: how one looks, and how it is checked without keeping it (A4).

A key is `mcpkey_<id>_<secret><checksum>`. The id finds the record at once; only the secret's hash is kept. The fixed
prefix and the checksum let secret scanners find a leaked key and tell it from noise.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from mcp_chassis.request import Caller

PREFIX: Final = "mcpkey"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 12
_SECRET_LENGTH: Final = 43
"""256 random bits in 62 letters: too many to guess, so a fast hash is enough."""
_CHECKSUM_LENGTH: Final = 6
KEY_PATTERN: Final = re.compile(PREFIX + "_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}$"
_Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,128}$")]
"""RFC 6749, 3.3."""


class KeyRecord(BaseModel):
    """What is kept of a key: everything but the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[0-9A-Za-z]{12}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    caller: str = Field(pattern=_NAME)
    tenant: str = Field(default="default", pattern=_NAME)
    scopes: tuple[_Scope, ...] = ()
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def caller_at(self, now: datetime) -> Caller | None:
        """Return who the key speaks for, or None if it has expired."""
        if self.expires is not None and self.expires <= now:
            return None
        return Caller(self.caller, self.tenant, frozenset(self.scopes), "key")


class MalformedKey(Exception):
    """A text is not one of our keys; its form or checksum is wrong."""


def create(
    caller: str, *, tenant: str = "default", scopes: tuple[str, ...] = (), expires: datetime | None = None
) -> tuple[str, KeyRecord]:
    """Return a new key and its record.

    Raises:
        pydantic.ValidationError: If caller or tenant is not a plain name.
    """
    public = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    record = KeyRecord(
        id=public,
        hash=digest(secret),
        caller=caller,
        tenant=tenant,
        scopes=scopes,
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
    )
    body = f"{PREFIX}_{public}_{secret}"
    return body + _checksum(body), record


def split(key: str) -> tuple[str, str]:
    """Return the id and the secret of a key.

    Raises:
        MalformedKey: If it is none of ours.
    """
    parts = KEY_PATTERN.fullmatch(key)
    if parts is None or _checksum(key[:-_CHECKSUM_LENGTH]) != parts.group(3):
        raise MalformedKey
    return parts.group(1), parts.group(2)


def digest(secret: str) -> str:
    """Return the hash that is kept of a secret."""
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


_NOBODY: Final = digest("nobody")


def matches(secret: str, record: KeyRecord | None) -> bool:
    """Tell whether the secret is the record's, in the same time for a wrong secret and for no record."""
    same = hmac.compare_digest(digest(secret), _NOBODY if record is None else record.hash)
    return same and record is not None


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode("ascii"))
    letters = []
    for _ in range(_CHECKSUM_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(reversed(letters))
