"""Fetch from the network what somebody else controls: bounded, over https, and never from inside our own (C1; SSRF)."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2

LARGEST: Final = 16_777_216
_SECONDS: Final = 30.0
_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)


class FetchFailed(Exception):
    """Nothing was fetched.

    Args:
        reason: A constant word for logs.
        text: What happened, for a person.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came: the body as far as it was read, its declared or counted size, and its media type."""

    body: bytes
    size: int
    media_type: str


class Fetcher:
    """Fetch over https.

    Args:
        internal_hosts: Hosts of our own network that may be asked all the same.
    """

    def __init__(self, *, internal_hosts: Collection[str] = ()) -> None:
        self._internal = frozenset(host.lower() for host in internal_hosts)
        self._tls = ssl.create_default_context()

    async def fetch(self, url: str, *, largest: int = LARGEST, media_type: str | None = None) -> Fetched:
        """Return what is at `url`.

        Args:
            url: An https URL.
            largest: Bytes after which reading stops: one more is enough to see that it is another resource.
            media_type: What it must be, if that is known.

        Raises:
            FetchFailed: If it cannot be had within the bounds.
        """
        try:
            with anyio.fail_after(_SECONDS):
                for _ in range(_MOST_REDIRECTS + 1):
                    found = await self._ask(url, largest, media_type)
                    if isinstance(found, Fetched):
                        return found
                    url = urljoin(url, found)
        except TimeoutError:
            raise FetchFailed("too_slow", f"{url} did not come within {_SECONDS:g} s") from None
        except (httpx2.TransportError, OSError) as error:
            raise FetchFailed("unreachable", f"{url} cannot be reached ({type(error).__name__})") from None
        raise FetchFailed("redirects", f"{url} is reached by more than {_MOST_REDIRECTS} redirects only")

    async def _ask(self, url: str, largest: int, media_type: str | None) -> Fetched | str:
        """Return what came, or where it is instead."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise FetchFailed("not_https", f"{url} is not https://")
        proxied = _proxied(parts.hostname)
        address = parts.hostname if proxied else await self._address(parts.hostname, parts.port or 443)
        shown = f"[{address}]" if ":" in address else address
        asked = parts._replace(netloc=f"{shown}:{parts.port}" if parts.port else shown).geturl()
        headers = {"Host": parts.netloc, "Accept-Encoding": "identity"}
        async with (
            httpx2.AsyncClient(verify=self._tls, trust_env=proxied, follow_redirects=False, timeout=_SECONDS) as client,
            client.stream("GET", asked, headers=headers, extensions={"sni_hostname": parts.hostname}) as answer,
        ):
            if answer.status_code in _REDIRECTS and "location" in answer.headers:
                return str(answer.headers["location"])
            if answer.status_code != 200:
                raise FetchFailed("status", f"{url} answers {answer.status_code}")
            return await _body(url, answer, largest, media_type)

    async def _address(self, host: str, port: int) -> str:
        """Return the address to connect to, which is the one that was judged: a second look-up may tell another."""
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            raise FetchFailed("unknown_host", f"{host} has no address") from None
        addresses = [str(item[4][0]) for item in found]
        inside = [text for text in addresses if not ipaddress.ip_address(text.partition("%")[0]).is_global]
        if inside and host.lower() not in self._internal:
            hint = f"{host} is in your own network ({inside[0]}); if that is meant, list it in MCP_RESOURCE_HOSTS"
            raise FetchFailed("private_address", hint)
        return addresses[0]


async def _body(url: str, answer: httpx2.Response, largest: int, media_type: str | None) -> Fetched:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise FetchFailed("encoded", f"{url} comes compressed, though it was asked for as it is")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type is not None and kind != media_type:
        raise FetchFailed("media_type", f"{url} is {kind or 'of no type'}, not {media_type}")
    body = b""
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > largest:
            break
    declared = answer.headers.get("content-length", "")
    if declared.isdigit() and len(body) < min(int(declared), largest):
        raise FetchFailed("truncated", f"{url} ended after {len(body)} of {declared} bytes")
    return Fetched(body, int(declared) if declared.isdigit() else len(body), kind)


def _proxied(host: str) -> bool:
    """Tell whether the environment names a proxy for `host`; then the proxy looks the name up."""
    return "https" in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)
