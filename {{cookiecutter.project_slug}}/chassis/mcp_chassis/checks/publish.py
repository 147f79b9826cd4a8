"""What must hold before a registry tells the world where the server is (G4)."""

from __future__ import annotations

import ipaddress
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from pydantic_core import from_json

from mcp_chassis.checks.report import Check, Finding, Profile, judged

RECORD: Final = Path("server.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """A registry entry that is about to be written.

    Args:
        record: What `server.json` says.
        version: The release; the project's own version if the caller named none.
        private: Whether the registry is one that only the organisation reads.
    """

    record: dict[str, Any]
    version: str
    private: bool

    @property
    def release(self) -> str:
        """The version without the v of a tag."""
        return self.version.removeprefix("v")

    @property
    def urls(self) -> list[str]:
        """The production addresses that it records."""
        remotes = self.record.get("remotes")
        return [str(remote.get("url")) for remote in remotes if isinstance(remote, dict)] if remotes else []


def entry_of(version: str | None, *, private: bool) -> Entry:
    """Read `server.json` in the current folder.

    Raises:
        ValueError: If it is not there or no JSON object.
    """
    try:
        record = from_json(RECORD.read_bytes())
    except OSError:
        raise ValueError(f"{RECORD} is not there: run this in the root of your project") from None
    if not isinstance(record, dict):
        raise ValueError(f"{RECORD} must hold one JSON object")
    if version is None:
        version = str(tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    return Entry(record, version, private)


publish: Final[Profile[Entry]] = Profile()


@publish.check("G4", "record one remote of type streamable-http in server.json: the production URL")
def recorded(entry: Entry) -> list[Finding]:
    """server.json records exactly one remote, over https."""
    good = len(entry.urls) == 1 and entry.urls[0].startswith("https://")
    return [judged(good, str(RECORD), ", ".join(entry.urls) or "no remotes")]


@publish.check("G6", "set the version in server.json and in pyproject.toml to that of the release")
def version(entry: Entry) -> list[Finding]:
    """The version that is published is the release's."""
    found = str(entry.record.get("version"))
    return [judged(found == entry.release, str(RECORD), f"{found}, the release is {entry.version}")]


async def _reachable(entry: Entry) -> list[Finding]:
    found = []
    for url in entry.urls:
        host = urlsplit(url).hostname or ""
        try:
            addresses = {str(item[4][0]) for item in await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except socket.gaierror as error:
            found.append(Finding("fail", f"{host}: {error.strerror}", fix="mend the name in DNS, or the URL"))
            continue
        bad = sorted(address for address in addresses if not _admitted(address, private=entry.private))
        found.append(judged(not bad, str(RECORD), f"{host}: {', '.join(bad or sorted(addresses))}"))
    return found


publish.append(
    Check(
        "G4",
        "reachable",
        "The recorded host is one that the registry's readers reach: never this machine, a private one in a private "
        "registry alone.",
        "record the address that clients use; publish hosts of your own network to a private registry",
        _reachable,
    )
)


def _admitted(text: str, *, private: bool) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast:
        return False
    return address.is_global or private
