"""A flood of distinct callers costs this process a bounded amount of memory, and what is idle leaves (L3)."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest

from mcp_chassis.limiter import Limiter
from mcp_chassis.policy import Rate
from mcp_chassis.state.store import Bucket, Budget, Conduct, Escalation, MemoryStore
from tests.limits.servers import caller, rules
from tests.limits.traces import SECOND

pytestmark = pytest.mark.anyio

LARGEST_SHELF = 100_000
"""Entries of one kind that are kept."""
CACHED = 10_000
"""Callers after whom the caches of names, of a fixed size, hold no more."""
COUNTED = 50_000
"""Callers whose bytes are counted, which makes each take five times as long."""
LARGEST = 40_000_000
"""Bytes that one kind takes at most, however many callers there are: buckets, budgets, or conducts."""


def entries(store: MemoryStore) -> dict[str, int]:
    """Return how much of each kind is kept."""
    spent, conduct = len(store._spent._entries), len(store._conduct._entries)
    return {"arrivals": len(store._arrivals._entries), "spent": spent, "conduct": conduct}


async def grown(calls: Callable[[int], Awaitable[object]]) -> float:
    """Return the bytes that a caller leaves behind, of those who come after the caches of names are full."""
    for who in range(CACHED):
        await calls(who)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for who in range(CACHED, CACHED + COUNTED):
            await calls(who)
        gc.collect()
        found = (tracemalloc.get_traced_memory()[0] - before) / COUNTED
    finally:
        tracemalloc.stop()
    for who in range(CACHED + COUNTED, LARGEST_SHELF + 2_000):
        await calls(who)
    return found


async def test_L3_distinct_callers_do_not_grow_memory_past_the_bound() -> None:
    # Given callers of whom each leaves a bucket that stays for hours
    store = MemoryStore()
    limiter = Limiter(store, rules(Rate(0.001, 10)))

    each = await grown(lambda who: limiter.admit(caller(who), "", "request", ()))

    assert entries(store)["arrivals"] == LARGEST_SHELF
    assert each * LARGEST_SHELF < LARGEST


async def test_L3_refused_callers_with_budgets_do_not_grow_memory_past_the_bound() -> None:
    store = MemoryStore(clock=lambda: 1_900_000_000 * SECOND)
    escalation = Escalation(1, 60 * SECOND, 30 * SECOND, 3600 * SECOND, 600 * SECOND)

    async def refused(who: int) -> None:
        bucket = Bucket("tool", f"rate:tool:{who:032}:search_notes", SECOND, 1)
        conduct = Conduct(f"conduct:{who:032}", "", escalation)
        for _ in range(2):
            await store.take(conduct, [bucket], Budget(f"budget:{who:032}:search_notes", 10, 1))

    each = await grown(refused)

    assert entries(store) == dict.fromkeys(("arrivals", "spent", "conduct"), LARGEST_SHELF)
    assert each * LARGEST_SHELF < LARGEST * 3


async def test_L3_idle_buckets_leave_by_themselves() -> None:
    # Given many callers, some of whom are served again and again
    now = [1_900_000_000 * SECOND]
    store = MemoryStore(clock=lambda: now[0])
    for who in range(5_000):
        await store.admit((), None, [Bucket("caller", f"rate:{who}", SECOND, 1)])
    await store.admit((), None, [Bucket("caller", "rate:lasting", 10**9 * SECOND, 1)])
    assert entries(store)["arrivals"] == 5_001

    # When all but one are idle for longer than their bucket remembers
    now[0] += 2 * SECOND
    for _ in range(2_600):
        now[0] += SECOND
        await store.admit((), None, [Bucket("caller", "rate:busy", SECOND, 1)])

    # Then they are gone, and who has to be remembered is not
    assert entries(store)["arrivals"] == 2
    assert (await store.admit((), None, [Bucket("caller", "rate:lasting", 10**9 * SECOND, 1)])).refusing == "caller"


async def test_L3_flood_costs_no_busy_caller_its_history_while_there_is_room() -> None:
    store = MemoryStore(clock=lambda: 1_900_000_000 * SECOND)
    slow = Bucket("caller", "rate:slow", 3600 * SECOND, 1)
    assert (await store.admit((), None, [slow])).refusing is None
    for who in range(LARGEST_SHELF - 1):
        await store.admit((), None, [Bucket("caller", f"rate:{who}", 3600 * SECOND, 1)])

    assert (await store.admit((), None, [slow])).refusing == "caller"
