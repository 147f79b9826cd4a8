"""Which `Host` and `Origin` a request may carry, so that a web page cannot reach this server by DNS rebinding (T7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from mcp_chassis.settings import Settings

_LOOPBACK_HOST: Final = r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
LOOPBACK_ORIGIN: Final = rf"https?://{_LOOPBACK_HOST}"
"""Pages a developer serves on the own machine, the MCP Inspector among them."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _spellings(url: SplitResult) -> tuple[str, ...]:
    """Return the `Host` values that mean `url`: the default port may be left out or not (RFC 9110, 4.2.3)."""
    if url.port is not None:
        return (url.netloc,)
    return (url.netloc, f"{url.netloc}:{_DEFAULT_PORTS[url.scheme]}")


@dataclass(frozen=True, slots=True)
class Names:
    """The hosts and origins of this server."""

    hosts: frozenset[str]
    origins: frozenset[str]
    loopback_origins: bool

    @classmethod
    def of(cls, settings: Settings) -> Names:
        """Return what `settings` allow: the public URL, what is listed, and loopback."""
        public = urlsplit(settings.public_url)
        return cls(
            hosts=frozenset(host.lower() for host in (*_spellings(public), *settings.allowed_hosts)),
            origins=frozenset({settings.public_url.lower(), *(origin.lower() for origin in settings.allowed_origins)}),
            loopback_origins=settings.environment == "development",
        )

    def admit_host(self, host: str) -> bool:
        """Tell whether a `Host` header names this server; loopback names do, because only this machine can use them."""
        return host.lower() in self.hosts or re.fullmatch(_LOOPBACK_HOST, host.lower()) is not None

    def admit_origin(self, origin: str) -> bool:
        """Tell whether a page of `origin` may call this server."""
        lower = origin.lower()
        return lower in self.origins or (self.loopback_origins and re.fullmatch(LOOPBACK_ORIGIN, lower) is not None)
