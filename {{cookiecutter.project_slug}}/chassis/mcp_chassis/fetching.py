"""Fetch from the network what somebody else controls: bounded, over https, and never from inside our own (C1; SSRF)."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import anyio
import httpx2

LARGEST: Final = 16_777_216
"""Bytes that are read of any resource."""
_SECONDS: Final = 30.0
"""For all of it: look-up, redirects, and a body that drips."""
_CONNECT_SECONDS: Final = 5.0
"""For each address of a host, so that a silent one leaves time for the next."""
_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_SHOWN: Final = 200
_WRITTEN: Final = re.compile(r"[!-\[\]-~]{1,2048}")
"""What a URL may consist of: printable ASCII without blanks and backslashes, which programs read differently."""
_DOTS: Final = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_ADDRESS: Final = re.compile(r".*:.*|(?:.*\.)?(?:\d+|0x[0-9a-f]*|localhost)\.?")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_OUR_OWN: Final = (ipaddress.ip_network("fec0::/10"), ipaddress.ip_network("64:ff9b:1::/48"))
"""What some versions of Python take for public."""


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
    """What came: the body, whether that is all of it, and its media type in small letters."""

    body: bytes
    whole: bool
    media_type: str


def shown(url: str) -> str:
    """Return a URL as logs and people may see it: a query may hold a secret, and a redirect's is a stranger's text."""
    bare, mark, _ = url.partition("?")
    start, separator, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    text = f"{start}{separator}{host.rpartition('@')[2]}{slash}{path}" + ("?…" if mark else "")
    return "".join(character if character.isprintable() else "?" for character in text[:_SHOWN])


def parts_of(url: str) -> SplitResult | None:
    """Return the parts of a URL that has a host, and a port that can be; None of any other text."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def checked(url: str) -> SplitResult:
    """Return the parts of `url`. Raises `ValueError` if it is not an https URL that every program reads alike."""
    if not _WRITTEN.fullmatch(url) or _DOTS.search(url.partition("?")[0]):
        raise ValueError(f"{shown(url)} must be printable ASCII without blanks, backslashes and dot segments")
    parts = parts_of(url)
    if parts is None or parts.scheme != "https":
        raise ValueError(f"{shown(url)} must be https:// and a host")
    if "@" in parts.netloc:
        raise ValueError(f"{shown(url)} must not hold credentials")
    return parts


class Fetcher:
    """Fetch over https.

    Args:
        internal_hosts: Hosts of our own network that may be asked all the same, with or without a port.
    """

    def __init__(self, *, internal_hosts: Collection[str] = ()) -> None:
        self._internal = frozenset(host.lower() for host in internal_hosts)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def fetch(self, url: str) -> Fetched:
        """Return what is at `url`, of which at most `LARGEST` bytes are read.

        Raises:
            FetchFailed: If it cannot be had within the bounds.
        """
        asked, internal = url, True
        try:
            with anyio.fail_after(_SECONDS):
                for _ in range(_MOST_REDIRECTS + 1):
                    # Else a stranger's redirect could make us ask the hosts that are listed for others.
                    internal = internal and self._is_internal(asked)
                    found = await self._ask(asked, internal=internal)
                    if isinstance(found, Fetched):
                        return found
                    asked = urljoin(asked, found)
        except (TimeoutError, httpx2.TimeoutException):
            raise FetchFailed("too_slow", f"{shown(asked)} does not come within {_SECONDS:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise _failure(asked, error) from None
        raise FetchFailed("redirects", f"{shown(url)} is reached by more than {_MOST_REDIRECTS} redirects only")

    def _is_internal(self, url: str) -> bool:
        parts = urlsplit(url)
        return not self._internal.isdisjoint({parts.hostname, f"{parts.hostname}:{parts.port or 443}"})

    async def _ask(self, url: str, *, internal: bool) -> Fetched | str:
        """Return what came, or where it is instead."""
        try:
            parts = checked(url)
        except ValueError as error:
            raise FetchFailed("not_https", str(error)) from None
        host, port = str(parts.hostname), parts.port or 443
        proxy = _proxy(host, port)
        addresses = await self._addresses(host, port, internal=internal, proxied=proxy is not None)
        for address in addresses[:-1]:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._ask_at(address, url, proxy)
        return await self._ask_at(addresses[-1], url, proxy)

    async def _ask_at(self, address: str, url: str, proxy: str | None) -> Fetched | str:
        parts = urlsplit(url)
        shown_address = f"[{address}]" if ":" in address else address
        asked = parts._replace(netloc=f"{shown_address}:{parts.port or 443}").geturl()
        headers = {"Host": parts.netloc, "Accept-Encoding": "identity"}
        timeout = httpx2.Timeout(_SECONDS, connect=_CONNECT_SECONDS)
        async with (
            # The environment is ours to read: what it says must not differ between the judgement and the connection.
            httpx2.AsyncClient(verify=self._tls, trust_env=False, proxy=proxy, timeout=timeout) as client,
            client.stream("GET", asked, headers=headers, extensions={"sni_hostname": parts.hostname}) as answer,
        ):
            if answer.status_code in _REDIRECTS and "location" in answer.headers:
                return str(answer.headers["location"])
            if answer.status_code != 200:
                raise FetchFailed("status", f"{shown(url)} answers {answer.status_code}")
            return await _body(url, answer)

    async def _addresses(self, host: str, port: int, *, internal: bool, proxied: bool) -> list[str]:
        """Return where to connect: exactly what was judged, because a second look-up may tell another.

        A proxy looks names up itself; an address that is written down, in whatever way, is judged all the same.
        """
        if proxied and not _ADDRESS.fullmatch(host):
            return [host]
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise FetchFailed("unknown_host", f"{host} has no address") from None
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        inside = [text for text in addresses if not is_public(text)]
        if inside and not internal:
            hint = f"{host} is in your own network ({inside[0]}); if that is meant, list it in MCP_RESOURCE_HOSTS"
            raise FetchFailed("private_address", hint)
        return addresses


async def _body(url: str, answer: httpx2.Response) -> Fetched:
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed("encoded", f"{shown(url)} comes compressed, though it was asked for as it is")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()[:127]
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > LARGEST:
            return Fetched(bytes(body[:LARGEST]), whole=False, media_type=kind)
    return Fetched(bytes(body), whole=True, media_type=kind)


def _failure(url: str, error: Exception) -> FetchFailed:
    """Say what a library's exception means; its text may be a stranger's."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return FetchFailed("certificate", f"{shown(url)} has a bad certificate: {cause.verify_message}")
    return FetchFailed("unreachable", f"{shown(url)} cannot be had ({type(error).__name__})")


def is_public(text: str) -> bool:
    """Tell whether an address is one of the internet's, also where it holds another one inside."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner is None and (address in _NAT64 or address in _COMPATIBLE):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if any(address in network for network in _OUR_OWN):
            return False
    return address.is_global and not address.is_multicast


def _proxy(host: str, port: int) -> str | None:
    """Return the proxy that the environment names for `host`."""
    known = urllib.request.getproxies()
    proxy = known.get("https") or known.get("all")
    if not proxy or urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise FetchFailed("proxy", "HTTPS_PROXY must be http:// or https:// and a host")
    return proxy
