"""`probe`: one look at a server from outside, or at a whole fleet, again and again (G3, G5)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

import anyio
from pydantic_core import to_json

from mcp_chassis.checks import Check, Result, examine, failed, write
from mcp_chassis.checks import server as _server  # noqa: F401  # it fills the list
from mcp_chassis.checks.target import NO_ANSWER, Target, chosen
from mcp_chassis.fetching import parts_of

_PAUSE: Final = 3.0
_AT_ONCE: Final = 8
_LONGEST: Final = 300
_DEADLINE: Final = "deadline"
_MOST_STEPS: Final = 3
"""A look that is not waited for ends after as many steps."""
UNREACHABLE, REFUSED, DRIFTED, BUFFERED = 3, 4, 5, 6
_CODES: Final = (
    (UNREACHABLE, {"dns", "tls"}),
    (REFUSED, {"admitted", "refusal", "credential"}),
    (DRIFTED, {"drift", "agreement", "release"}),
    (BUFFERED, {"streaming"}),
)
CODES: Final = (
    "Exit codes: 0 good, 1 another check failed, 2 wrong usage, 3 not reachable (name, certificate, connection), 4 the "
    "credential is refused or ends soon, or nobody needs one, 5 the contract drifted or another release answers, 6 the "
    "stream is buffered."
)
_NAMES: Final = (
    *("dns", "tls", "certificate", "handshake", "stateless", "admitted", "tools", "agreement", "drift", "ping"),
    *("refusal", "credential"),
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
        schema_file: Where the digest of its contract is, likewise.
        version: What it should say its version is.
    """

    name: str
    url: str
    token_file: Path | None = None
    schema_file: Path | None = None
    version: str | None = None

    def target(self, timeout: float, days: float) -> Target:
        """Return it as checks take it. Raises `Misused` if a file cannot be read."""
        token = None if self.token_file is None else _secret(self.token_file)
        digest = None if self.schema_file is None else _digest(self.schema_file)
        return Target(self.url, token, digest, self.version, timeout, days)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try.

    Args:
        wait: Seconds to look again and again until it is good.
        step: Seconds one step may take.
        days: Days that certificate and credential must have left.
    """

    wait: float = 0
    step: float = 20
    days: float = 7


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw.

    Args:
        item: At whom.
        results: Of each check.
        facts: Numbers for metrics.
        introduction: What the server says it is; empty if it said nothing.
        moment: When, in seconds since 1970.
    """

    item: Wanted
    results: list[Result]
    facts: dict[str, float]
    introduction: str
    moment: float

    @property
    def code(self) -> int:
        """The exit code that tells the most."""
        bad = [item for item in self.results if failed([item])]
        if any(item.found.startswith(NO_ANSWER) for item in bad):
            return UNREACHABLE
        names = {item.name for item in bad}
        return next((code for code, own in _CODES if names & own), 1 if bad else 0)


def wanted(
    url: str,
    token_file: Path | None = None,
    schema_file: Path | None = None,
    name: str = "",
    version: str | None = None,
) -> Wanted:
    """Return what a command line or a line of a targets file names.

    Raises:
        Misused: If the URL is none, or a file cannot be read.
    """
    parts = parts_of(url)
    if parts is None or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        shown = "what was given" if "@" in url else url  # before an @ stands a password
        raise Misused(f"{shown} is no address of a server; write https://notes.example.com/mcp")
    item = Wanted(name or parts.netloc, url, token_file, schema_file, version)
    item.target(0, 0)
    return item


def targets_of(path: Path) -> list[Wanted]:
    """Read a targets file: a line each, `URL [name=…] [token-file=…] [expect-schema=…]`; `#` begins a comment.

    Raises:
        Misused: If a line says something else; it is named.
    """
    found: list[Wanted] = []
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
            item = wanted(url, token, schema, given.get("name", ""))
        except Misused as error:
            raise Misused(f"{path}:{number}: {error}") from None
        if any(item.name == other.name for other in found):
            raise Misused(f"{path}:{number}: another line is called {item.name}, too; add name=…")
        found.append(item)
    if not found:
        raise Misused(f"{path} names no server; a line is: https://notes.example.com/mcp name=notes")
    return found


def checks_of(*, stream: bool, release: bool = False) -> list[Check[Target]]:
    """Return the profile of the probe."""
    return chosen(*_NAMES, *(["release"] if release else []), *(["streaming"] if stream else []))


async def look(item: Wanted, checks: Sequence[Check[Target]], patience: Patience) -> Look:
    """Look once; with `wait`, again and again until it is good or that many seconds are over."""
    end = time.monotonic() + patience.wait
    last: Look | None = None
    while True:
        left = max(end - time.monotonic(), 1) if patience.wait else _MOST_STEPS * patience.step
        found = await _once(item, checks, replace(patience, wait=left, step=min(patience.step, left)))
        if last is not None and found.results[0].name == _DEADLINE:
            found = last  # cut short by the end of the wait: the look before tells more
        left, last = end - time.monotonic(), found
        if not found.code or left <= 0:
            return found
        first = next(result for result in found.results if failed([result]))
        print(f"{item.name}: not yet ({first.name}: {first.found}); {left:.0f} s left", file=sys.stderr, flush=True)
        await anyio.sleep(min(_PAUSE, left))


async def _once(item: Wanted, checks: Sequence[Check[Target]], patience: Patience) -> Look:
    try:
        target = item.target(patience.step, patience.days)
    except Misused as error:  # it could be read at the start: a rotation may be under way
        return _broken(item, "admitted", "The credential can be read.", "put the file back", str(error))
    with anyio.move_on_after(patience.wait):
        results = [
            replace(result, found=_told_by(result.found, target.token)) for result in await examine(checks, target)
        ]
        return Look(item, results, target.facts, _told_by(target.introduction, target.token), time.time())
    found = f"{NO_ANSWER}not done after {patience.wait:.0f} s"
    return _broken(item, _DEADLINE, "One look ends in time.", "see what makes its answers slow", found)


def _broken(item: Wanted, name: str, rule: str, fix: str, found: str) -> Look:
    result = Result("G5", name, "fail", rule, found, "", fix, required=True, seconds=0)
    return Look(item, [result], {}, "", time.time())


def _told_by(text: str, token: str | None) -> str:
    """Take out what a server may have said to harm us: our credential, control characters, a megabyte."""
    text = text.replace(token, "[credential]") if token else text
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


async def look_at_all(
    items: Sequence[Wanted], checks: Sequence[Check[Target]], patience: Patience, done: Callable[[Look], None]
) -> int:
    """Look at some at once, call `done` with each look, and return the exit code of the first bad one in order."""
    codes: dict[str, int] = {}
    places = anyio.CapacityLimiter(_AT_ONCE)

    async def one(item: Wanted) -> None:
        async with places:
            found = await look(item, checks, patience)
        codes[item.name] = found.code
        done(found)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(one, item)
    return next((codes[item.name] for item in items if codes[item.name]), 0)


async def again(once: Callable[[], Awaitable[int]], every: float) -> int:
    """Look every so many seconds until a signal comes, which is the way to end this and no failure."""
    with anyio.CancelScope() as scope:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, scope.cancel)
        while True:
            begun = time.monotonic()
            await once()
            await anyio.sleep(max(0.0, every - (time.monotonic() - begun)))
    print("stopped", file=sys.stderr)
    return 0


def report(found: Look, stream: TextIO, *, as_json: bool) -> None:
    """Write what one look saw: for a person, or one line of JSON."""
    at = datetime.fromtimestamp(found.moment, UTC).isoformat(timespec="seconds")
    if as_json:
        head = {"target": found.item.name, "url": found.item.url, "server": found.introduction, "at": at}
        line = {**head, "code": found.code, "results": [asdict(item) for item in found.results]}
        print(to_json(line).decode(), file=stream)
    else:
        print(f"{found.item.url}  {found.introduction or 'did not introduce itself'}  {at}\n", file=stream)
        write(found.results, stream, as_json=False)
        print(file=stream)
    stream.flush()


def _secret(path: Path) -> str:
    token = _text(path).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Misused(f"{path} holds no credential; it should hold one and nothing else")
    return token


def _digest(path: Path) -> str:
    word = (_text(path).split() or [""])[0].lower()
    if len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise Misused(f"{path} holds no SHA-256; `schema write` makes it")
    return word


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misused(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    except ValueError:
        raise Misused(f"{path} cannot be read: it is no text") from None
