"""The one interface to state: texts under names, and decisions that are all or nothing.

Decisions are ours because no maintained library takes several buckets, a budget and a suspension in one atomic step.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, Literal, Protocol, TypeVar

_Value = TypeVar("_Value")
LONGEST: Final = 0.03
"""Seconds of silence before a call goes on without Redis; with a key kept there it asks thrice, in 100 ms (L9)."""
_LARGEST_SHELF: Final = 100_000
"""Entries of one kind, some 40 MB: a flood of callers costs some others their history, never the process."""
_SWEPT: Final = 2
"""Old entries looked at for each one kept, so that ended ones leave faster than new ones come."""
_FOR_EVER: Final = 1 << 62
Limit = Literal["session", "caller", "tool", "budget", "global"]
Refusing = Literal[Limit, "suspended", "revoked"]
SECOND: Final = 1_000_000
"""Decisions count in microseconds, whole ones: exact in Python and in Lua."""
DAY: Final = 86_400 * SECOND
HIGHEST_LEVEL: Final = 40
"""Suspensions double no further; every length is far above the longest by then."""


def _anchored() -> Callable[[], int]:
    """Return a clock in microseconds since 1970 that nobody can set back."""
    anchor = time.time_ns() - time.monotonic_ns()
    return lambda: (anchor + time.monotonic_ns()) // 1000


class _Shelf(Generic[_Value]):
    """Values under names, each with an end; bounded."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[_Value, int]] = OrderedDict()

    def get(self, name: str, now: int) -> _Value | None:
        found = self._entries.get(name)
        return found[0] if found is not None and found[1] > now else None

    def put(self, name: str, value: _Value, ends: int, now: int) -> None:
        entries = self._entries
        entries[name] = (value, ends)
        entries.move_to_end(name)
        for oldest in list(islice(entries, _SWEPT)):
            if entries[oldest][1] <= now or len(entries) > _LARGEST_SHELF:
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


class StoreDown(Exception):
    """The store did not answer in time; the caller's policy decides what that means."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A rate of somebody (GCRA, ITU-T I.371): one theoretical arrival time under a name.

    Args:
        limit: What it is called when it refuses.
        name: Where the arrival time is kept.
        interval: Microseconds between two calls in the long run.
        burst: Calls at once.
        own: Whether a refusal counts against the caller: what others used up does not.
    """

    limit: Limit
    name: str
    interval: int
    burst: int
    own: bool = True


@dataclass(frozen=True, slots=True)
class Budget:
    """Units per UTC day on the store's clock.

    Args:
        name: Where the day and what was spent in it is kept.
        units: What a day has.
        cost: What this call spends.
    """

    name: str
    units: int
    cost: int


@dataclass(frozen=True, slots=True)
class Escalation:
    """When refusals become a suspension; all times in microseconds.

    Args:
        refusals: Refusals within `window` that suspend.
        window: Counted from the first refusal.
        first: The first suspension; each further one is twice as long.
        longest: The longest.
        decay: Good conduct after which a suspension is forgotten, one at a time.
    """

    refusals: int
    window: int
    first: int
    longest: int
    decay: int


@dataclass(frozen=True, slots=True)
class Conduct:
    """How somebody behaves.

    Args:
        name: Where refusals and suspensions are kept.
        who: Whom an operator reads about, as text without secrets.
        escalation: The rules.
    """

    name: str
    who: str
    escalation: Escalation


@dataclass(frozen=True, slots=True)
class Decision:
    """What the store decided.

    Args:
        refusing: What refuses, or None.
        wait: Microseconds after which the same request passes, if nothing else is used until then; of one that passed,
            until the buckets have room for the next.
        suspended: Microseconds of the suspension that this refusal brought about; 0 if it did not.
        now: The store's clock: microseconds since 1970.
        estimate: Whether nobody can know the wait.
    """

    refusing: Refusing | None
    wait: int
    suspended: int
    now: int
    estimate: bool = False


class Store(Protocol):
    """Every method raises `StoreDown` if the store cannot answer within its time."""

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

    async def admit(self, revocations: Sequence[str], conduct: Conduct | None, buckets: Sequence[Bucket]) -> Decision:
        """Decide about a request: refused if a revocation exists, if its sender is suspended or has no room."""

    async def take(self, conduct: Conduct, buckets: Sequence[Bucket], budget: Budget | None) -> Decision:
        """Decide about a call: it takes from every bucket and the budget, or from none."""

    async def close(self) -> None:
        """Give back what the store holds open."""
