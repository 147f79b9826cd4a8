"""The number admitted, the delay told and what a refusal takes are exact (L3, L4, L5, L8)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import Bucket, Budget, Conduct, Decision, Escalation, MemoryStore, Store
from tests.limits.model import A_DAY
from tests.limits.traces import HOUR, PATIENT, SECOND
from tests.support.redis import Redis

pytestmark = pytest.mark.anyio

NEVER = Conduct("conduct:a", "{}", Escalation(0, 1, 1, 1, 1))
STRICT = Conduct("conduct:a", "{}", Escalation(3, HOUR, 30 * SECOND, HOUR, HOUR))
START = 20_000 * A_DAY + 11 * HOUR + 7
OVERDUE = 1_000
"""Microseconds by which Redis, asked about real time, may be early or late."""


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, shared_redis: Redis) -> AsyncIterator[Store]:
    """Give each store in turn, empty."""
    shared_redis.ask(b"FLUSHALL")
    found: Store = MemoryStore()
    if request.param == "redis":
        found = RedisStore(shared_redis.url, server="notes", longest=PATIENT)
    yield found
    await found.close()


def tool(interval: int, burst: int, name: str = "rate:tool") -> Bucket:
    return Bucket("tool", name, interval, burst)


async def admitted(store: Store, times: int, buckets: Sequence[Bucket], budget: Budget | None = None) -> int:
    """Return how many of calls that come at once pass."""
    found = await asyncio.gather(*(store.take(NEVER, buckets, budget) for _ in range(times)))
    return sum(decision.refusing is None for decision in found)


@pytest.mark.parametrize("burst", [1, 7, 500])
async def test_L3_burst_admits_exactly_its_number(burst: int, store: Store) -> None:
    assert await admitted(store, burst + 100, [tool(HOUR, burst)]) == burst
    assert await admitted(store, 10, [tool(HOUR, burst, "rate:of_another")]) == min(10, burst)


@pytest.mark.parametrize(("units", "cost"), [(1, 1), (10, 3), (100, 7)])
async def test_L4_budget_admits_exactly_what_it_pays_for(units: int, cost: int, store: Store) -> None:
    assert await admitted(store, 200, [tool(10, 100_000)], Budget("budget:a", units, cost)) == units // cost


async def test_L8_refused_call_consumes_nothing(store: Store) -> None:
    # Given three counters, each with room for a known number of calls
    wide, narrow, budget = tool(HOUR, 5), Bucket("global", "rate:global", HOUR, 3, own=False), Budget("budget:a", 4, 1)

    # When calls are refused by one of them, many times
    assert await admitted(store, 40, [wide, narrow], budget) == 3

    # Then the others still have what three calls left over
    assert await admitted(store, 40, [], budget) == 1
    assert await admitted(store, 40, [wide], budget) == 0
    assert await admitted(store, 40, [wide]) == 2


async def test_L8_revoked_or_suspended_request_consumes_nothing(store: Store) -> None:
    # Given a caller that is suspended, and a credential that is revoked
    await store.write("revoked:1", "1")
    for _ in range(4):
        seen = await store.take(STRICT, [tool(HOUR, 1, "rate:slow")], None)
    assert seen.suspended > 0
    bucket = Bucket("caller", "rate:caller", HOUR, 2)

    for _ in range(9):
        assert (await store.admit(["revoked:2", "revoked:1"], NEVER, [bucket])).refusing == "revoked"
        assert (await store.admit([], STRICT, [bucket])).refusing == "suspended"
        assert (await store.take(STRICT, [bucket], None)).refusing == "suspended"

    found = [(await store.admit([], NEVER, [bucket])).refusing for _ in range(3)]
    assert found == [None, None, "caller"]


async def test_L6_what_others_used_up_is_held_against_nobody(store: Store) -> None:
    everybody = Bucket("global", "rate:global", HOUR, 1, own=False)
    found = [await store.take(STRICT, [tool(10, 100_000), everybody], None) for _ in range(20)]

    assert [decision.refusing for decision in found] == [None] + ["global"] * 19


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.booleans()), max_size=12),
    st.integers(10, 5 * SECOND),
    st.integers(1, 4),
    st.integers(0, 4),
)
async def test_L5_delay_told_is_the_first_microsecond_that_passes(
    before: list[tuple[int, bool]], interval: int, burst: int, units: int
) -> None:
    # Given any past, and a call that is refused
    def at(now: int) -> MemoryStore:
        clock[0] = now
        return store

    clock = [START]
    store = MemoryStore(clock=lambda: clock[0])
    buckets = [tool(interval, burst), Bucket("global", "rate:global", interval * 2, burst, own=False)]
    budget = Budget("budget:a", units * 2, 1) if units else None
    escalation = Escalation(3, 10 * SECOND, SECOND, 4 * SECOND, 9 * SECOND)
    conduct = Conduct("conduct:a", "{}", escalation)

    async def ask(now: int) -> Decision:
        return await at(now).take(conduct, buckets, budget)

    for pause, twice in before:
        for _ in range(1 + twice):
            await ask(clock[0] + pause)
    while (refused := await ask(clock[0])).refusing is None:
        pass

    # Then a microsecond less is refused, and the delay itself is enough; each in a copy of the same past
    kept = {name: shelf._entries.copy() for name, shelf in vars(store).items() if hasattr(shelf, "_entries")}
    assert (await ask(refused.now + refused.wait - 1)).refusing is not None
    for name, entries in kept.items():
        vars(store)[name]._entries = entries
    assert (await ask(refused.now + refused.wait)).refusing is None


async def test_L5_delay_told_by_redis_is_true_to_a_millisecond(shared_redis: Redis) -> None:
    shared_redis.ask(b"FLUSHALL")
    store = RedisStore(shared_redis.url, server="notes", longest=PATIENT)
    bucket = tool(30_000, 2)
    for _ in range(4):
        while (refused := await store.take(NEVER, [bucket], None)).refusing is None:
            pass
        seen = refused
        while seen.refusing is not None:
            assert seen.now + seen.wait == refused.now + refused.wait
            await asyncio.sleep(0.0002)
            seen = await store.take(NEVER, [bucket], None)
        assert seen.now >= refused.now + refused.wait
    # And the clock by which it counts goes as ours does
    begun, now = time.monotonic(), seen.now
    await asyncio.sleep(0.02)
    seen = await store.take(NEVER, [bucket], None)
    assert abs((seen.now - now) / SECOND - (time.monotonic() - begun)) < 0.05
    await store.close()
