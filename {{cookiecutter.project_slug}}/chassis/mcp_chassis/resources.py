"""What a server loads at run time, pinned by digest: swapped underneath, it is refused, and the verified copy serves on
(C1, C2).

`resources.lock.json` is part of the artefact and never fetched. It names for each URL the SHA-256, the size, the media
type and when it was last verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.fetching import Fetched, Fetcher, FetchFailed
from mcp_chassis.telemetry.logging import log
from mcp_chassis.telemetry.metrics import RESOURCE_CURRENT, RESOURCE_FAILURES, RESOURCE_MISMATCHES

LOCK: Final = Path("resources.lock.json")
_FORMAT: Final = 1
_MUTABLE: Final = frozenset(
    {"latest", "main", "master", "head", "trunk", "develop", "dev", "nightly", "stable", "edge", "current", "snapshot"}
)
_RAW_BRANCH: Final = re.compile(r"/refs/heads/|/(?:blob|raw|tree)/(?!v?\d+\.\d|[0-9a-f]{40}/)[^/]+/")


class Pin(BaseModel):
    """One remote resource as it was reviewed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    media_type: str
    last_verified: AwareDatetime

    @classmethod
    def of(cls, found: Fetched) -> Pin:
        """Return the pin of what was fetched just now."""
        now = datetime.now(UTC).replace(microsecond=0)
        return cls(sha256=digest(found.body), size=len(found.body), media_type=found.media_type, last_verified=now)

    def fits(self, body: bytes) -> bool:
        """Tell whether `body` is what was pinned."""
        return len(body) == self.size and digest(body) == self.sha256


class _Lock(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int = Field(_FORMAT, ge=_FORMAT, le=_FORMAT)
    resources: dict[str, Pin] = {}


class NotPinned(LookupError):
    """A URL that `resources.lock.json` does not name: nobody reviewed what would be loaded."""


class Unpinnable(ValueError):
    """A URL that may mean something else tomorrow; the text says why."""


def digest(body: bytes) -> str:
    """Return the SHA-256 of `body`, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def check_reference(url: str) -> None:
    """Raise `Unpinnable` if `url` is not https, or names something that moves, such as a branch (C2)."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise Unpinnable(f"{url} must be https:// and a host, without credentials and fragment")
    words = re.split(r"[/=&@:]", unquote(f"{parts.path}/{parts.query}").lower())
    moving = next((word for word in words if word in _MUTABLE), None)
    if moving is not None or _RAW_BRANCH.search(unquote(parts.path)):
        raise Unpinnable(f"{url} moves ({moving or 'a branch'}); name a version or a commit instead")


def read_lock(path: Path = LOCK) -> dict[str, Pin]:
    """Return the pins by their URLs; none if there is no lock.

    Raises:
        Unpinnable: If it is no such file, or an entry is mutable.
    """
    try:
        lock = _Lock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        raise Unpinnable(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    for url in lock.resources:
        check_reference(url)
    return lock.resources


def write_lock(pins: dict[str, Pin], path: Path = LOCK) -> None:
    """Write the pins, sorted, in one step."""
    text = json.dumps(_Lock(format=_FORMAT, resources=pins).model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    _replace(path, text.encode("utf-8"))


class Resources:
    """The pinned resources of this process.

    Args:
        pins: By their URLs.
        cache: Where verified copies are kept from one start to the next.
        fetcher: Fetches.
        interval: Seconds between two verifications; 0 verifies at the start alone.
    """

    def __init__(self, pins: dict[str, Pin], *, cache: Path, fetcher: Fetcher, interval: float) -> None:
        self._pins = pins
        self._cache = cache
        self._fetcher = fetcher
        self._interval = interval
        self._verified: dict[str, bytes] = {}

    async def prepare(self) -> None:
        """Have a verified copy of everything.

        Raises:
            ConfigurationError: If of something there is none: the server must not start.
        """
        problems = []
        for url, pin in self._pins.items():
            kept = self._kept(pin)
            if kept is not None:
                # Verified when it was kept, and its digest again now; the network is asked once the server runs.
                self._verified[url] = kept
            elif reason := await self._verify(url, pin):
                problems.append(Problem(str(LOCK), url, f"has no verified copy: {reason}"))
        if problems:
            raise ConfigurationError(problems)

    @asynccontextmanager
    async def verifying(self) -> AsyncIterator[None]:
        """Verify everything again and again for as long as the context lasts."""

        async def repeat() -> None:
            while True:
                for url, pin in self._pins.items():
                    await self._verify(url, pin)
                if not self._interval:
                    return
                await anyio.sleep(self._interval)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repeat)
            yield
            tasks.cancel_scope.cancel()

    def verified(self, url: str) -> bytes:
        """Return the verified copy. Raises `NotPinned` if there is none."""
        if url not in self._verified:
            raise NotPinned(f"{url} is not in {LOCK}: uv run <command> ops resources add {url}")
        return self._verified[url]

    async def _verify(self, url: str, pin: Pin) -> str:
        """Fetch once; what does not fit is refused, and what was verified before stays. Returns what was wrong."""
        try:
            found = await self._fetcher.fetch(url, largest=pin.size, media_type=pin.media_type)
        except FetchFailed as error:
            RESOURCE_FAILURES.inc()
            log.warning("resource_unreachable", url=url, reason=error.reason)
            return str(error)
        RESOURCE_CURRENT.labels(_label(url)).set(pin.fits(found.body))
        if not pin.fits(found.body):
            RESOURCE_MISMATCHES.inc()
            actual = digest(found.body)
            log.critical(
                "resource_mismatch",
                url=url,
                expected=pin.sha256,
                actual=actual,
                expected_bytes=pin.size,
                actual_bytes=found.size,
            )
            return f"its SHA-256 is {actual}, not {pin.sha256}"
        if url not in self._verified:
            self._verified[url] = found.body
            _replace(self._cache / pin.sha256, found.body)
        return ""

    def _kept(self, pin: Pin) -> bytes | None:
        try:
            body = (self._cache / pin.sha256).read_bytes()
        except OSError:
            return None
        return body if pin.fits(body) else None


def _label(url: str) -> str:
    """Return the file's name: a URL may be long, and its path is nobody's business."""
    return urlsplit(url).path.rpartition("/")[2][:64] or "index"


def _replace(path: Path, body: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
