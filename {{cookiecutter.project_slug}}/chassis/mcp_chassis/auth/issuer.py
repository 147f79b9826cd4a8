"""The signing keys of an OAuth issuer: fetched, cached, refreshed when it rotates, kept when it is down (A5)."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx2
from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError
from pydantic_core import from_json

_FETCH_SECONDS: Final = 5.0
_LARGEST_ANSWER: Final = 262_144
_OLDEST: Final = 3600.0
"""Seconds after which keys are fetched again, so that a withdrawn key stops working."""


class IssuerUnavailable(Exception):
    """No key of the issuer was ever seen, so no token can be judged."""


class Issuer:
    """The keys behind one issuer URL.

    Args:
        url: The issuer, as tokens name it.
        keys_url: Where its JWKS is; found by discovery when None.
        floor: Seconds between two fetches: unknown key ids are the caller's text and must not become a flood.
        client: HTTP client to fetch with.
    """

    def __init__(self, url: str, *, keys_url: str | None, floor: float, client: httpx2.AsyncClient) -> None:
        self._url = url
        self._keys_url = keys_url
        self._floor = floor
        self._client = client
        self._keys: dict[str, PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._lock = anyio.Lock()

    async def key(self, key_id: str) -> PyJWK | None:
        """Return the key called `key_id`, or None if the issuer has none of that name.

        Raises:
            IssuerUnavailable: If the issuer has never answered.
        """
        if key_id not in self._keys or self._stale():
            async with self._lock:
                if (key_id not in self._keys or self._stale()) and self._may_try():
                    await self._refresh()
        if self._fetched is None:
            raise IssuerUnavailable(self._url)
        return self._keys.get(key_id)

    def _stale(self) -> bool:
        return self._fetched is None or time.monotonic() - self._fetched > _OLDEST

    def _may_try(self) -> bool:
        return self._tried is None or time.monotonic() - self._tried >= self._floor

    async def _refresh(self) -> None:
        """Fetch the keys; on any failure the old ones stay."""
        self._tried = time.monotonic()
        try:
            with anyio.fail_after(_FETCH_SECONDS):
                keys_url = self._keys_url or await self._discover()
                answer = await self._get(keys_url)
            found = _usable_keys(answer)
        except (httpx2.HTTPError, ValueError, TimeoutError, PyJWTError):
            return
        if found:
            self._keys, self._fetched = found, time.monotonic()

    async def _discover(self) -> str:
        """Return the JWKS URL from the issuer's metadata (OpenID Connect Discovery 1.0, 4.3)."""
        metadata = await self._get(f"{self._url.rstrip('/')}/.well-known/openid-configuration")
        found = metadata.get("jwks_uri")
        if metadata.get("issuer") != self._url or not isinstance(found, str):
            raise ValueError("the metadata is another issuer's")
        if urlsplit(found).scheme != urlsplit(self._url).scheme:
            raise ValueError("the keys must not be fetched less safely than the metadata")
        return found

    async def _get(self, url: str) -> dict[str, object]:
        """Return a JSON object, refusing redirects and answers too large to be one."""
        async with self._client.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise ValueError("the issuer did not answer 200")
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    raise ValueError("the answer is too large")
        value = from_json(body)
        if not isinstance(value, dict):
            raise ValueError("the answer is no object")
        return value


def _usable_keys(answer: dict[str, object]) -> dict[str, PyJWK]:
    """Return the asymmetric signature keys by their id."""
    return {
        key.key_id: key
        for key in PyJWKSet.from_dict(answer).keys
        if key.key_id and key.key_type != "oct" and key.public_key_use in (None, "sig")
    }
