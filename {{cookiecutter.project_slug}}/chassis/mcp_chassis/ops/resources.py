"""`ops resources`: pin what the server loads at run time, and see whether it is still the same (C1, C2)."""

from __future__ import annotations

from typing import Annotated, Final

import anyio
import typer

from mcp_chassis.environment import BAD_CONFIGURATION, load
from mcp_chassis.fetching import LARGEST, Fetched, Fetcher, FetchFailed, shown
from mcp_chassis.ops import Impossible, Misused, explained, tell
from mcp_chassis.pins import LOCK, Pin, Unpinnable, check_reference, read_lock, write_lock
from mcp_chassis.resources import Copies, check_type, mismatch
from mcp_chassis.settings import Settings

_SHORT: Final = 16
_UNREACHABLE: Final = 3
_AWAY: Final = frozenset({"too_slow", "unknown_host", "unreachable", "proxy"})
"""What says nothing about the resource: its origin does not answer."""
Urls = Annotated[list[str], typer.Argument(metavar="URL...", help="https URLs that name a version or a commit.")]


class _BadLock(Impossible):
    exit_code = BAD_CONFIGURATION


class _Desk:
    """What a command works with: the settings, the lock as it was, and the network.

    Raises:
        ConfigurationError: If the environment is wrong.
        _BadLock: If the lock is.
    """

    def __init__(self) -> None:
        settings, _ = load(Settings)
        self._fetcher = Fetcher(internal_hosts=settings.resource_hosts)
        self._copies = Copies(settings.resource_cache) if settings.resource_cache else None
        try:
            self.pins = read_lock()
        except Unpinnable as error:
            raise _BadLock(str(error)) from None

    def fetch(self, url: str) -> Fetched:
        """Return what is at `url` now. Raises `FetchFailed`."""
        return anyio.run(self._fetcher.fetch, url)

    def pin(self, url: str) -> str:
        """Pin what is at `url` now, and say what changed."""
        try:
            found = self.fetch(url)
        except FetchFailed as error:
            raise Impossible(f"{error}; nothing was written") from None
        if not found.whole:
            raise Impossible(f"{shown(url)} is larger than {LARGEST} bytes; nothing was written")
        before, self.pins[url] = self.pins.get(url), Pin.of(found)
        self.keep(self.pins[url], found)
        if before is None:
            return "added  "
        same = before.sha256 == self.pins[url].sha256
        return "same   " if same else f"changed from {before.sha256[:_SHORT]}… ({before.size} bytes) "

    def keep(self, pin: Pin, found: Fetched) -> None:
        """Keep a copy where `MCP_RESOURCE_CACHE` says, so that an image can hold it."""
        if self._copies is not None and self._copies.find(pin) is None:
            self._copies.keep(pin, found.body)


def resource_commands() -> typer.Typer:
    """Return `ops resources`."""
    app = typer.Typer(help=f"Pin what the server loads at run time by digest, in {LOCK}.", no_args_is_help=True)

    @app.command("add")
    def add_command(urls: Urls) -> None:
        """Fetch and pin. Look at what came before you commit the lock: from then on it is what the server trusts."""
        with explained():
            _add(urls)

    @app.command("lock")
    def lock_command() -> None:
        """Fetch everything anew and accept what changed; the difference is printed for your review."""
        with explained():
            desk = _Desk()
            _pin(desk, list(desk.pins))

    @app.command("verify")
    def verify_command() -> None:
        """Exit 1 if something is not what was pinned, 3 if the rest cannot be had; note the time of what is."""
        with explained():
            _verify()

    return app


def _add(urls: list[str]) -> None:
    desk = _Desk()
    for url in urls:
        try:
            check_reference(url)
        except Unpinnable as error:
            raise Misused(str(error)) from None
    _pin(desk, urls)


def _pin(desk: _Desk, urls: list[str]) -> None:
    for url in urls:
        what, pin = desk.pin(url), desk.pins[url]
        print(f"{what}{shown(url)}\n       sha256 {pin.sha256}, {pin.size} bytes, {pin.media_type or 'no media type'}")
    write_lock(desk.pins)


def _verify() -> None:
    desk = _Desk()
    good = differs = 0
    for url, pin in desk.pins.items():
        try:
            found = desk.fetch(url)
            check_type(url, pin, found)
        except FetchFailed as error:
            print(f"FAILED {error}")
            differs += error.reason not in _AWAY
            continue
        if not pin.fits(found.body):
            print(f"FAILED {shown(url)}: {mismatch(pin, found)}")
            differs += 1
            continue
        good += 1
        desk.pins[url] = pin.verified_now()
        desk.keep(pin, found)
        print(f"ok     {shown(url)}")
    if good:
        _note(desk.pins)
    print(f"{good} of {len(desk.pins)} verified")
    if good < len(desk.pins):
        raise typer.Exit(Impossible.exit_code if differs else _UNREACHABLE)


def _note(pins: dict[str, Pin]) -> None:
    try:
        write_lock(pins)
    except OSError as error:
        tell(f"{LOCK} does not take the time of this verification: {error.strerror}")
