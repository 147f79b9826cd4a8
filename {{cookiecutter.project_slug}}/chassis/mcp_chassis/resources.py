"""What a server loads at run time, pinned by digest (C1).

Swapped underneath, it is refused, and the verified copy serves on.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.fetching import Fetched, Fetcher, FetchFailed, shown
from mcp_chassis.pins import LOCK, Pin, digest, replace
from mcp_chassis.telemetry import RESOURCE_CURRENT, RESOURCE_FAILURES
from mcp_chassis.telemetry.logging import log, type_name

_AT_ONCE: Final = 4


class NotPinned(LookupError):
    """A URL that `resources.lock.json` does not name: nobody reviewed what would be loaded."""


class Copies:
    """A folder of verified copies, each named after its digest; several processes may share it.

    Args:
        folder: Made when the first copy is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, pin: Pin) -> bytes | None:
        """Return the copy if it is there and whole; whoever can write into the folder cannot change what is pinned."""
        try:
            # Not blocking, because somebody may have put a pipe there.
            handle = os.open(self._folder / pin.sha256, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                found = os.fstat(handle)
                body = file.read(pin.size) if stat.S_ISREG(found.st_mode) and found.st_size == pin.size else b""
        except OSError:
            return None
        return body if pin.fits(body) else None

    def keep(self, pin: Pin, body: bytes) -> None:
        """Keep a copy. Raises `OSError` if the folder does not take it."""
        replace(self._folder / pin.sha256, body)


class Resources:
    """The pinned resources of this process.

    Args:
        pins: By their URLs.
        copies: Where verified copies are kept from one start to the next.
        fetcher: Fetches.
        interval: Seconds between two verifications; 0 verifies at the start alone.
    """

    def __init__(self, pins: dict[str, Pin], *, copies: Copies, fetcher: Fetcher, interval: float) -> None:
        self._pins = pins
        self._copies = copies
        self._fetcher = fetcher
        self._interval = interval
        self._verified: dict[str, bytes] = {}
        self._failures: Counter[str] = Counter()
        self._labels = labels(pins)

    async def prepare(self) -> None:
        """Have a verified copy of everything.

        Raises:
            ConfigurationError: If of something there is none: the server must not start.
        """
        reasons: dict[str, str] = {}
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def get(url: str) -> None:
            async with limiter:
                reasons[url] = await self._try(url)

        async with anyio.create_task_group() as tasks:
            for url, pin in self._pins.items():
                kept = self._copies.find(pin)
                if kept is None:
                    tasks.start_soon(get, url)
                else:
                    # Verified when it was kept, and its digest again now; the network is asked once the server runs.
                    self._verified[url] = kept
        missing = [(url, reasons[url]) for url in self._pins if reasons.get(url)]
        if missing:
            raise ConfigurationError(
                [Problem(f"{LOCK}: {shown(url)}", None, f"has no verified copy: {reason}") for url, reason in missing]
            )

    @asynccontextmanager
    async def verifying(self) -> AsyncIterator[None]:
        """Verify everything again and again for as long as the context lasts."""

        async def repeat() -> None:
            while True:
                for url in self._pins:
                    await self._try(url)
                if not self._interval:
                    return
                await anyio.sleep(self._interval)

        async with anyio.create_task_group() as tasks:
            if self._pins:
                tasks.start_soon(repeat)
            yield
            tasks.cancel_scope.cancel()

    def verified(self, url: str) -> bytes:
        """Return the verified copy. Raises `NotPinned` if there is none."""
        if url not in self._verified:
            raise NotPinned(f"{url} is not in {LOCK.absolute()}: uv run <command> ops resources add {url}")
        return self._verified[url]

    async def _try(self, url: str) -> str:
        try:
            return await self._verify(url)
        except Exception as error:
            # What a stranger sends must never end the server.
            log.crash(error)
            return f"it could not be verified ({type_name(error)})"

    async def _verify(self, url: str) -> str:
        """Fetch once; what does not fit is refused, and what was verified before stays. Returns what was wrong."""
        pin, label = self._pins[url], self._labels[url]
        try:
            found = await self._fetcher.fetch(url)
            check_type(url, pin, found)
        except FetchFailed as error:
            self._failures[url] += 1
            RESOURCE_FAILURES.labels(label).set(self._failures[url])
            log.warning("resource_unreachable", url=shown(url), reason=error.reason, hint=self._consequence(url))
            return str(error)
        self._failures[url] = 0
        RESOURCE_FAILURES.labels(label).set(0)
        RESOURCE_CURRENT.labels(label).set(pin.fits(found.body))
        if not pin.fits(found.body):
            self._report(url, pin, found)
            return mismatch(pin, found)
        self._verified[url] = found.body
        if self._copies.find(pin) is None:
            self._keep(url, pin, found.body)
        return ""

    def _report(self, url: str, pin: Pin, found: Fetched) -> None:
        log.critical(
            "resource_mismatch",
            url=shown(url),
            expected=pin.sha256,
            actual=digest(found.body) if found.whole else "unknown",
            expected_bytes=pin.size,
            actual_bytes=len(found.body),
            hint=self._consequence(url),
        )

    def _consequence(self, url: str) -> str:
        return "the verified copy serves on" if url in self._verified else "there is no verified copy"

    def _keep(self, url: str, pin: Pin, body: bytes) -> None:
        try:
            self._copies.keep(pin, body)
        except OSError as error:
            log.warning("resource_not_kept", url=shown(url), reason=error.strerror or "", hint="see MCP_RESOURCE_CACHE")


def check_type(url: str, pin: Pin, found: Fetched) -> None:
    """Raise `FetchFailed` if the right bytes come as another media type; for wrong bytes the type does not matter."""
    if pin.fits(found.body) and found.media_type != pin.media_type:
        kind = found.media_type or "of no media type"
        raise FetchFailed("media_type", f"{shown(url)} is {kind}, not {pin.media_type or 'of none'}")


def mismatch(pin: Pin, found: Fetched) -> str:
    """Say how what came differs from what was pinned."""
    if not found.whole:
        return f"it is larger than {len(found.body)} bytes, pinned {pin.size}"
    return f"its SHA-256 is {digest(found.body)} ({len(found.body)} bytes), pinned {pin.sha256} ({pin.size} bytes)"


def labels(urls: Collection[str]) -> dict[str, str]:
    """Return what metrics call each URL: without its query, and no two alike."""
    found: dict[str, str] = {}
    for url in urls:
        name = shown(url).removeprefix("https://")
        same = sum(other == name or other.startswith(f"{name} #") for other in found.values())
        found[url] = f"{name} #{same + 1}" if same else name
    return found


_current: list[Resources] = []


def use(resources: Resources) -> None:
    """Make `resources` those of this process."""
    _current[:] = [resources]


async def load(url: str) -> bytes:
    """Return the verified copy of a pinned resource.

    Raises:
        NotPinned: If `resources.lock.json` does not name it.
    """
    if not _current:
        raise NotPinned(f"{url}: no server has been started in this process")
    return _current[0].verified(url)
