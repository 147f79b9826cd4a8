"""Redis, memory and the plain model decide alike about the same trace: what, how long, since when (L3, L4, L6, L8)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from mcp_chassis.state.store import Bucket, Budget, Conduct, Decision, Escalation
from tests.limits.model import A_DAY
from tests.limits.traces import HOUR, MILLISECOND, SECOND, Pause, Step, Take, Trace, by_others, by_redis, traces
from tests.support.redis import Redis, running

SPEED = 1000
"""How much faster than ours the clock of the fast Redis is: a day is 86 s."""
BEFORE_MIDNIGHT = "@2030-03-01 23:59:50"
REPLAY = hypothesis_settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

REAL = traces([MILLISECOND, 2 * MILLISECOND, 3_300, 7 * MILLISECOND])
FAST = traces([MILLISECOND, SECOND, 4 * SECOND, 9 * SECOND])
LONG = traces([MILLISECOND, SECOND, 30 * SECOND, 600 * SECOND, HOUR, 7 * HOUR, A_DAY, 40 * A_DAY])
NEVER = Escalation(0, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def fast_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Run a Redis whose clock begins shortly before midnight and hurries."""
    with running(tmp_path_factory.mktemp("redis"), clock=f"{BEFORE_MIDNIGHT} x{SPEED}") as found:
        yield found


def compare(redis: Redis, trace: Trace, speed: int = 1) -> list[Decision | None]:
    """Return what all three decided."""

    async def all_three() -> tuple[list[Decision | None], list[Decision | None], list[Decision | None]]:
        found = await by_redis(redis, trace, speed)
        return found, *await by_others(trace, [None if decision is None else decision.now for decision in found])

    redis.ask(b"FLUSHALL")
    shared, memory, model = asyncio.run(all_three())
    assert shared == memory
    assert memory == model
    return shared


@hypothesis_settings(REPLAY, max_examples=150)
@given(REAL)
def test_L8_all_decide_alike_while_time_passes(shared_redis: Redis, trace: Trace) -> None:
    compare(shared_redis, trace)


@hypothesis_settings(REPLAY, max_examples=80)
@given(FAST)
def test_L8_all_decide_alike_while_hours_pass_in_redis(fast_redis: Redis, trace: Trace) -> None:
    compare(fast_redis, trace, SPEED)


@hypothesis_settings(REPLAY, max_examples=250)
@given(LONG)
def test_L8_memory_and_model_decide_alike_while_weeks_pass(trace: Trace) -> None:
    start = 1_900_000_000 * SECOND + 123_457

    memory, model = asyncio.run(by_others(trace, [None] * len(trace), start))

    assert memory == model


def test_L4_budget_is_renewed_when_the_day_of_redis_rolls_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Given a Redis 2 s before midnight, and 3 units a day
    bucket = Bucket("tool", "rate:tool", 10, 100_000)
    call = Take(Conduct("conduct:a", "{}", NEVER), (bucket,), Budget("budget:a", 3, 1))
    steps: list[Step] = [*[call] * 5, Pause(4 * SECOND), *[call] * 5]

    with running(tmp_path_factory.mktemp("redis"), clock="@2030-03-01 23:59:58 x20") as redis:
        found = [decision for decision in compare(redis, tuple(steps), 20) if decision is not None]

    # Then each day has its three, and the delay told ends at midnight exactly
    assert [decision.refusing for decision in found] == [None] * 3 + ["budget"] * 2 + [None] * 3 + ["budget"] * 2
    assert [datetime.fromtimestamp(found[index].now // SECOND, UTC).day for index in (0, 5)] == [1, 2]
    assert {(decision.now + decision.wait) % A_DAY for decision in found if decision.refusing} == {0}


def ill_behaved(rules: Escalation, rests: list[int]) -> Trace:
    """Return a caller that is refused twice after each rest, in microseconds: its call has to wait for weeks."""
    slow = Bucket("tool", "rate:tool", 40 * A_DAY, 1)
    call = Take(Conduct("conduct:a", "{}", rules), (slow,), None)
    return (call, *(step for rest in rests for step in (Pause(rest), call, call)))


def lengths(decisions: list[Decision | None]) -> list[int]:
    """Return the suspensions that began, in seconds."""
    return [decision.suspended // SECOND for decision in decisions if decision is not None and decision.suspended]


def test_L6_suspensions_double_on_the_clock_of_redis(fast_redis: Redis) -> None:
    rules = Escalation(2, window=HOUR, first=30 * SECOND, longest=200 * SECOND, decay=A_DAY)
    rests = [seconds * SECOND for seconds in (0, 31, 61, 121, 201)]

    found = compare(fast_redis, ill_behaved(rules, rests), SPEED)

    assert lengths(found) == [30, 60, 120, 200, 200]


def test_L6_suspensions_double_to_the_longest() -> None:
    assert _virtually([0, 30, 60, 120, 240, 480, 960, 960]) == [30, 60, 120, 240, 480, 960, 960, 960]


@pytest.mark.parametrize(
    ("quiet", "next_one"),
    [(0, 240), (599.999_999, 240), (600, 120), (1199.999_999, 120), (1200, 60), (1800, 30), (86_400, 30)],
)
def test_L6_good_conduct_forgets_one_suspension_at_a_time(quiet: float, next_one: int) -> None:
    assert _virtually([0, 30, 60, 120 + quiet]) == [30, 60, 120, next_one]


@pytest.mark.parametrize(("later", "suspended"), [(0, [30, 60]), (60 * SECOND - 1, [30, 60]), (60 * SECOND, [30])])
def test_L6_refusals_are_counted_from_the_first_to_the_end_of_the_window(later: int, suspended: list[int]) -> None:
    rules = Escalation(2, window=60 * SECOND, first=30 * SECOND, longest=HOUR, decay=HOUR)
    before = ill_behaved(rules, [0])
    trace = (*before, Pause(30 * SECOND), before[0], Pause(later), before[0])

    memory, model = asyncio.run(by_others(trace, [None] * len(trace), A_DAY))

    assert memory == model
    assert lengths(memory) == suspended


def _virtually(rests: Sequence[float]) -> list[int]:
    """Return the suspensions of a caller that rests so many seconds each time; no real time passes."""
    rules = Escalation(2, window=60 * SECOND, first=30 * SECOND, longest=960 * SECOND, decay=600 * SECOND)
    trace = ill_behaved(rules, [round(rest * SECOND) for rest in rests])
    memory, model = asyncio.run(by_others(trace, [None] * len(trace), A_DAY))
    assert memory == model
    return lengths(memory)
