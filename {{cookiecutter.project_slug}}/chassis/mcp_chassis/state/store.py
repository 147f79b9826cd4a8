"""The one interface to state, and the store that lives in this process (`memory://`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol


class StoreDown(Exception):
    """The store did not answer in time; the caller's policy decides what that means."""


class Store(Protocol):
    """Texts under names, each with an end.

    Every method raises `StoreDown` if the store cannot answer within its time.
    """

    shared: bool
    """True if other processes see the same state."""

    async def read(self, names: Sequence[str]) -> list[str | None]:
        """Return the texts of `names` in their order, in one round trip."""

    async def write(self, name: str, text: str, seconds: float | None = None) -> None:
        """Keep `text` under `name`, for ever or for `seconds`."""

    async def remove(self, name: str) -> None:
        """Forget `name`."""

    async def names(self, prefix: str) -> list[str]:
        """Return all names that begin with `prefix`, sorted; for commands, not for requests."""

    async def close(self) -> None:
        """Give back what the store holds open."""


class MemoryStore:
    """State of this process alone; it ends with the process."""

    shared = False

    def __init__(self) -> None:
        self._texts: dict[str, tuple[str, float | None]] = {}

    async def read(self, names: Sequence[str]) -> list[str | None]:
        """Return the texts that have not ended."""
        return [self._read(name) for name in names]

    def _read(self, name: str) -> str | None:
        found = self._texts.get(name)
        if found is None:
            return None
        text, end = found
        if end is not None and end <= time.monotonic():
            del self._texts[name]
            return None
        return text

    async def write(self, name: str, text: str, seconds: float | None = None) -> None:
        """Keep `text`."""
        self._texts[name] = (text, None if seconds is None else time.monotonic() + seconds)

    async def remove(self, name: str) -> None:
        """Forget `name`."""
        self._texts.pop(name, None)

    async def names(self, prefix: str) -> list[str]:
        """Return the names that have not ended."""
        return sorted(name for name in tuple(self._texts) if name.startswith(prefix) and self._read(name) is not None)

    async def close(self) -> None:
        """Do nothing: memory closes itself."""
