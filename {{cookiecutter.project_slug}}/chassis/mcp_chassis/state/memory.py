"""The store that lives in this process (`memory://`), and that decides while Redis is away."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

from mcp_chassis.state.store import DAY, HIGHEST_LEVEL, SECOND, Bucket, Budget, Conduct, Decision, Refusing

_Value = TypeVar("_Value")
_LARGEST_SHELF: Final = 100_000
"""Entries of one kind, some 40 MB: a flood of callers costs some others their history, never the process."""
_SWEPT: Final = 2
"""Old entries looked at for each one kept, so that ended ones leave faster than new ones come."""
_FOR_EVER: Final = 1 << 62


def _anchored() -> Callable[[], int]:
    """Return a clock in microseconds since 1970 that nobody can set back."""
    anchor = time.time_ns() - time.monotonic_ns()
    return lambda: (anchor + time.monotonic_ns()) // 1000


class _Shelf(Generic[_Value]):
    """Values under names, each with an end; bounded."""

    def __init__(self, largest: int = _LARGEST_SHELF) -> None:
        self._entries: OrderedDict[str, tuple[_Value, int]] = OrderedDict()
        self._largest = largest

    def get(self, name: str, now: int) -> _Value | None:
        found = self._entries.get(name)
        return found[0] if found is not None and found[1] > now else None

    def put(self, name: str, value: _Value, ends: int, now: int) -> None:
        entries = self._entries
        entries[name] = (value, ends)
        entries.move_to_end(name)
        for oldest in list(islice(entries, _SWEPT)):
            if entries[oldest][1] <= now or len(entries) > self._largest:
                del entries[oldest]
            else:
                entries.move_to_end(oldest)

    def remove(self, name: str) -> None:
        self._entries.pop(name, None)

    def names(self, prefix: str, now: int) -> list[str]:
        return sorted(name for name, (_, end) in self._entries.items() if name.startswith(prefix) and end > now)


class MemoryStore:
    """State of this process alone; it ends with the process.

    Args:
        clock: Microseconds since 1970.
    """

    shared = False

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or _anchored()
        self._texts: _Shelf[str] = _Shelf()
        self._arrivals: _Shelf[int] = _Shelf()
        self._spent: _Shelf[int] = _Shelf()
        self._conduct: _Shelf[tuple[int, int, int, int]] = _Shelf()

    async def read(self, names: Sequence[str]) -> list[str | None]:
        """Return the texts that have not ended."""
        now = self._clock()
        return [self._texts.get(name, now) for name in names]

    async def write(self, name: str, text: str, seconds: float | None = None) -> None:
        """Keep `text`."""
        now = self._clock()
        self._texts.put(name, text, _FOR_EVER if seconds is None else now + round(seconds * SECOND), now)

    async def remove(self, name: str) -> None:
        """Forget `name`."""
        self._texts.remove(name)

    async def names(self, prefix: str) -> list[str]:
        """Return the names that have not ended."""
        return self._texts.names(prefix, self._clock())

    async def close(self) -> None:
        """Do nothing: memory closes itself."""

    async def admit(self, revocations: Sequence[str], conduct: Conduct | None, buckets: Sequence[Bucket]) -> Decision:
        """Decide as `decisions.lua` does."""
        now = self._clock()
        if any(self._texts.get(name, now) is not None for name in revocations):
            return Decision("revoked", 0, 0, now)
        return self._decide(conduct, buckets, None, now)

    async def take(self, conduct: Conduct, buckets: Sequence[Bucket], budget: Budget | None) -> Decision:
        """Decide as `decisions.lua` does."""
        return self._decide(conduct, buckets, budget, self._clock())

    def _decide(self, conduct: Conduct | None, buckets: Sequence[Bucket], budget: Budget | None, now: int) -> Decision:
        refusing: Refusing | None = None
        wait, next_wait, own = 0, 0, False
        arrivals = []
        for bucket in buckets:
            arrival, late = self._room(bucket, now)
            arrivals.append(arrival)
            next_wait = max(next_wait, late + bucket.interval)
            own = own or (late > 0 and bucket.own)
            if late > wait:
                refusing, wait = bucket.limit, late
        spent = 0
        if budget is not None:
            spent = (self._spent.get(budget.name, now) or 0) + budget.cost
            if spent > budget.units:
                own = True
                if DAY - now % DAY > wait:
                    refusing, wait = "budget", DAY - now % DAY
        if conduct is not None and (left := self._suspended(conduct, now)) > 0:
            return Decision("suspended", max(left, wait), 0, now)
        if refusing is not None:
            length = self._strike(conduct, now) if own and conduct is not None else 0
            return Decision(refusing, max(wait, length), length, now)
        for bucket, arrival in zip(buckets, arrivals, strict=True):
            self._arrivals.put(bucket.name, arrival, arrival, now)
        if budget is not None:
            self._spent.put(budget.name, spent, now - now % DAY + DAY, now)
        return Decision(None, next_wait, 0, now)

    def _room(self, bucket: Bucket, now: int) -> tuple[int, int]:
        """Return the arrival time that a call now would leave behind, and how long it is too early."""
        room = bucket.interval * bucket.burst
        # Bounded, because the clock may be set back and a rate may be raised.
        arrival = min(max(self._arrivals.get(bucket.name, now) or 0, now), now + room) + bucket.interval
        return arrival, arrival - room - now

    def _suspended(self, conduct: Conduct, now: int) -> int:
        found = self._conduct.get(conduct.name, now) if conduct.escalation.refusals else None
        # Bounded, because the clock may be set back and the longest may be lowered.
        return 0 if found is None else min(found[3] - now, conduct.escalation.longest)

    def _strike(self, conduct: Conduct, now: int) -> int:
        """Count a refusal; return the length of the suspension it brings about, or 0."""
        rules = conduct.escalation
        if not rules.refusals:
            return 0
        count, window_ends, level, ends = self._conduct.get(conduct.name, now) or (0, 0, 0, 0)
        if now >= window_ends:
            count, window_ends = 0, now + rules.window
        count += 1
        length = 0
        if count >= rules.refusals:
            level = min(max(0, level - max(0, now - ends) // rules.decay), HIGHEST_LEVEL)
            length = min(rules.first * 2**level, rules.longest)
            count, window_ends, level, ends = 0, 0, level + 1, now + length
        forgotten = max(window_ends, ends + level * rules.decay)
        self._conduct.put(conduct.name, (count, window_ends, level, ends), forgotten, now)
        return length
