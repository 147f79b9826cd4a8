"""What was taken back, seen by every replica at the next request (A3)."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, Literal

from mcp_chassis.state.store import Store

Kind = Literal["key", "token", "subject"]
"""What can be revoked: an API key by its id, a token by its `jti`, everything of a subject."""

_PREFIX: Final = "revoked:"


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
