"""The one interface to state: texts under names, and decisions that are all or nothing.

Decisions are ours because no maintained library takes several buckets, a budget and a suspension in one atomic step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Limit = Literal["session", "caller", "tool", "budget", "global"]
Refusing = Literal["session", "caller", "tool", "budget", "global", "suspended", "revoked"]

SECOND: Final = 1_000_000
"""Decisions count in microseconds, whole ones: exact in Python and in Lua."""
DAY: Final = 86_400 * SECOND
HIGHEST_LEVEL: Final = 40
"""Suspensions double no further; every length is far above the longest by then."""


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
