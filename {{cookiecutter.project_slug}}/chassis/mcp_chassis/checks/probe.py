"""`probe`: one look at a server from outside, or one after another at a whole fleet, for ever (G3, G5)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import urlsplit

import anyio
from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile

from mcp_chassis.checks.report import Check, Result, examine, failed, write
from mcp_chassis.checks.server import Target, chosen

_PAUSE: Final = 3.0
UNREACHABLE, REFUSED, DRIFTED, BUFFERED = 3, 4, 5, 6
_CODES: Final = (
    (UNREACHABLE, ("dns", "tls")),
    (REFUSED, ("refusal", "credential")),
    (DRIFTED, ("drift", "agreement")),
    (BUFFERED, ("streaming",)),
)
CODES: Final = (
    "Exit codes: 0 good, 1 a check failed, 2 wrong usage, 3 not reachable, 4 the credential or its refusal, "
    "5 the contract drifted, 6 the stream is buffered."
)


class Misused(ValueError):
    """What was asked for makes no sense; the text says what would."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look at.

    Args:
        name: What metrics and reports call the server.
        url: The endpoint.
        token_file: Where the credential is, read anew for each look.
        digest: SHA-256 that its contract should have.
    """

    name: str
    url: str
    token_file: Path | None = None
    digest: str | None = None

    def target(self, timeout: float) -> Target:
        """Return it as checks take it. Raises `Misused` if the credential cannot be read."""
        return Target(self.url, None if self.token_file is None else _secret(self.token_file), self.digest, timeout)


def wanted(url: str, token_file: Path | None = None, expect_schema: Path | None = None, name: str = "") -> Wanted:
    """Return what a command line or a line of a targets file names.

    Raises:
        Misused: If the URL is none, or a file cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise Misused(f"{url} is no address of a server; write https://notes.example.com/mcp")
    return Wanted(name or parts.netloc, url, token_file, None if expect_schema is None else _digest(expect_schema))


def targets_of(path: Path) -> list[Wanted]:
    """Read a targets file: a line each, `URL [name=…] [token-file=…] [expect-schema=…]`; `#` begins a comment.

    Raises:
        Misused: If a line says something else; it is named.
    """
    found = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        url, *rest = line.partition("#")[0].split() or [""]
        if not url:
            continue
        given = dict(part.partition("=")[::2] for part in rest)
        if unknown := given.keys() - {"name", "token-file", "expect-schema"}:
            raise Misused(
                f"{path}:{number}: {', '.join(sorted(unknown))} is not known; name=, token-file=, expect-schema="
            )
        token, schema = (path.parent / given[key] if key in given else None for key in ("token-file", "expect-schema"))
        try:
            found.append(wanted(url, token, schema, given.get("name", "")))
        except Misused as error:
            raise Misused(f"{path}:{number}: {error}") from None
    if len({item.name for item in found}) < len(found):
        raise Misused(f"{path}: two targets have one name; add name=…")
    return found


def checks_of(*, stream: bool) -> list[Check[Target]]:
    """Return the profile of the probe."""
    names = ["dns", "tls", "handshake", "stateless", "tools", "agreement", "drift", "ping", "refusal", "credential"]
    return chosen(*names, *(["streaming"] if stream else []))


def code_of(results: Sequence[Result]) -> int:
    """Return the exit code that tells the most."""
    bad = {item.name for item in results if failed([item])}
    if any(item.result == "unseen" and "Connect" in item.found for item in results):
        return UNREACHABLE
    return next((code for code, names in _CODES if bad & set(names)), 1 if bad else 0)


async def look(item: Wanted, checks: Sequence[Check[Target]], *, wait: float = 0, patience: float = 20) -> list[Result]:
    """Look once; with `wait`, again and again until it is good or that many seconds are over."""
    end = time.monotonic() + wait
    while True:
        target = item.target(patience)
        results = await examine(checks, target)
        left = end - time.monotonic()
        if not failed(results) or left <= 0:
            metrics.take(item.name, results, target)
            return results
        first = next(found for found in results if failed([found]))
        print(f"not yet ({first.name}: {first.found}); {left:.0f} s left", file=sys.stderr)
        await anyio.sleep(min(_PAUSE, left))


class Metrics:
    """What Prometheus learns of each look, as a page or as a text file."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        target, step = ["target"], ["target", "check"]
        self._success = Gauge("mcp_probe_success", "1 if every check was good.", target, registry=self._registry)
        self._time = Gauge(
            "mcp_probe_timestamp_seconds",
            "When it was looked at, in seconds since 1970.",
            target,
            registry=self._registry,
        )
        self._check = Gauge("mcp_probe_check", "1 good or not asked, 0 not good.", step, registry=self._registry)
        self._seconds = Gauge("mcp_probe_seconds", "How long a check took.", step, registry=self._registry)
        self._fact = Gauge(
            "mcp_probe_fact", "What was learned, such as tls_days_left.", ["target", "fact"], registry=self._registry
        )

    def take(self, name: str, results: Sequence[Result], target: Target) -> None:
        """Keep what one look saw."""
        self._success.labels(name).set(not failed(results))
        self._time.labels(name).set(time.time())
        for check in {item.name for item in results}:
            own = [item for item in results if item.name == check]
            self._check.labels(name, check).set(not failed(own))
            self._seconds.labels(name, check).set(own[0].seconds)
        for fact, value in target.facts.items():
            self._fact.labels(name, fact).set(value)

    def write(self, path: Path) -> None:
        """Write the text file that a node exporter reads, in one step."""
        write_to_textfile(str(path), self._registry)

    def serve(self, address: str) -> None:
        """Serve the page at `host:port`. Raises `Misused` if that is none."""
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise Misused(f"{address} is no address to listen on; write 127.0.0.1:9115")
        start_http_server(int(port), host or "127.0.0.1", registry=self._registry)


metrics: Final = Metrics()


def report(results: Sequence[Result], item: Wanted, stream: TextIO, *, as_json: bool, many: bool) -> None:
    """Write what one look saw."""
    if many and not as_json:
        print(f"\n{item.name}  {item.url}", file=stream)
    write(results, stream, as_json=as_json)
    stream.flush()


def _secret(path: Path) -> str:
    token = _text(path).strip()
    if not token:
        raise Misused(f"{path} is empty; it should hold the credential")
    return token


def _digest(path: Path) -> str:
    word = (_text(path).split() or [""])[0].lower()
    if len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise Misused(f"{path} holds no SHA-256; `schema write` makes it")
    return word


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Misused(f"{path} cannot be read: {os.strerror(getattr(error, 'errno', None) or 84)}") from None
