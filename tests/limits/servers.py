"""Limiters with small rules, callers for them, and a measure of how late this machine is itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from mcp_chassis.limiter import DownPolicy, Rules, ToolRules
from mcp_chassis.policy import Rate
from mcp_chassis.request import Caller
from mcp_chassis.state.store import DAY, SECOND, Escalation, Limit, Store, StoreDown

LOCAL: dict[Limit, DownPolicy] = dict.fromkeys(("session", "caller", "tool", "budget", "global"), "local")
BACK = 10.0
"""Seconds after which a store that is back has to be in use again; it takes 0.3 s on an idle machine."""
_BEAT = 0.002


def rules(
    limit: Rate | None = None,
    when_down: Mapping[Limit, DownPolicy] | None = None,
    *,
    budget: int | None = None,
    refusals: int = 0,
    everybody: Rate | None = None,
) -> Rules:
    """Return the same rate for everything, and one tool `search`."""
    rate = limit or Rate(100_000, 100_000)
    return Rules(
        tools={"search": ToolRules(limit=rate, budget=budget, cost=1, concurrency=None)},
        session=rate,
        session_of_caller=rate,
        caller=rate,
        everybody=everybody,
        escalation=Escalation(refusals, 60 * SECOND, 30 * SECOND, 3600 * SECOND, DAY),
        when_down={**LOCAL, **(when_down or {})},
    )


def caller(number: int = 0) -> Caller:
    """Return one of many callers."""
    return Caller(id=f"agent-{number}", tenant="acme", way="key")


class Lateness:
    """Seconds by which this process was late, told by a task that does nothing but look at the clock."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    async def beat(self) -> None:
        """Look until cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(_BEAT)
            now = time.monotonic()
            self._seen.append((now, now - begun - _BEAT))

    def between(self, begun: float, ended: float) -> float:
        """Return how late it was in this time, in all."""
        return sum(late for when, late in self._seen if begun <= when <= ended + 10 * _BEAT)


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Measure while the context lasts."""
    found = Lateness()
    task = asyncio.create_task(found.beat())
    yield found
    task.cancel()


async def until(true: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Return once something has become true."""
    end = time.monotonic() + BACK
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.005)


async def answers(store: Store) -> bool:
    """Tell whether the store answers."""
    try:
        await store.read(["anything"])
    except StoreDown:
        return False
    return True
