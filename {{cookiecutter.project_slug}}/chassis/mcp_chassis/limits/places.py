"""How many of something may be open at one time, of one caller and in all; nobody waits (L2, L10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Self


class Full(Exception):
    """There is no place.

    Args:
        own: Whether the caller's own share is used up, or everybody's.
    """

    def __init__(self, *, own: bool) -> None:
        super().__init__("full")
        self.own = own


class Places:
    """A bounded number of places in this process.

    Args:
        maximum: In all.
        each: Of one holder.
    """

    def __init__(self, maximum: int, each: int | None = None) -> None:
        self._maximum = maximum
        self._each = maximum if each is None else each
        self._held: Counter[Hashable] = Counter()
        self.taken = 0

    def take(self, holder: Hashable) -> Place:
        """Return a place.

        Raises:
            Full: If there is none.
        """
        if self._held[holder] >= self._each:
            raise Full(own=True)
        if self.taken >= self._maximum:
            raise Full(own=False)
        self.take_again(holder)
        return Place(self, holder)

    def take_again(self, holder: Hashable) -> None:
        """Begin a holding that is not refused, because its work has begun."""
        self._held[holder] += 1
        self.taken += 1

    def give_back(self, holder: Hashable) -> None:
        """End one holding."""
        self.taken -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]


class Place:
    """One place, which is free again when everybody who holds it has let go: a request, and the call it began."""

    def __init__(self, places: Places, holder: Hashable) -> None:
        self._places = places
        self._holder = holder
        self._holds = 0
        self._free = False

    def __enter__(self) -> Self:
        """Hold the place; a call that begins after its request has ended takes it again."""
        if self._free:
            self._places.take_again(self._holder)
            self._free = False
        self._holds += 1
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of it."""
        self._holds -= 1
        if self._holds == 0:
            self._free = True
            self._places.give_back(self._holder)
