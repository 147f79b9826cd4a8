"""Traces of questions to a store, and the same trace asked of Redis, of memory and of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import Bucket, Budget, Conduct, Decision, Escalation, Limit, MemoryStore
from tests.limits.model import A_DAY, Model
from tests.support.redis import Redis

PATIENT = 10.0
"""Seconds that a busy machine may take where a test is not about time."""
MILLISECOND, SECOND, HOUR = 1_000, 1_000_000, 3_600_000_000


@dataclass(frozen=True)
class Admit:
    """A request."""

    revocations: tuple[str, ...]
    conduct: Conduct | None
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True)
class Take:
    """A call."""

    conduct: Conduct
    buckets: tuple[Bucket, ...]
    budget: Budget | None


@dataclass(frozen=True)
class Revoke:
    """A credential is taken back, or given again."""

    name: str
    back: bool


@dataclass(frozen=True)
class Pause:
    """Microseconds in which nothing happens."""

    length: int


Step = Admit | Take | Revoke | Pause
Trace = tuple[Step, ...]

INTERVALS = (10, 100, MILLISECOND, 1_700, 5 * MILLISECOND, SECOND, 60 * SECOND, A_DAY, 60_000_000_000)
"""From 100,000 a second to 0.001 a minute, which are the ends of what settings admit."""


def traces(times: Sequence[int], intervals: Sequence[int] = INTERVALS) -> SearchStrategy[Trace]:
    """Return traces of one set of rules.

    Args:
        times: Microseconds that pauses, windows and suspensions may last.
        intervals: Of buckets.
    """
    time = st.sampled_from(times)
    rules = st.builds(Escalation, st.integers(0, 3), time, time, st.sampled_from([*times, A_DAY]), time)
    return rules.flatmap(
        lambda escalation: st.lists(_steps(escalation, time, intervals), min_size=12, max_size=40).map(tuple)
    )


def _steps(escalation: Escalation, time: SearchStrategy[int], intervals: Sequence[int]) -> SearchStrategy[Step]:
    who = st.sampled_from("ab")
    interval, burst = st.sampled_from(intervals), st.sampled_from([1, 1, 1, 2, 3, 100_000])
    conducts = who.map(lambda name: Conduct(f"conduct:{name}", f'{{"caller":"{name} \\u00fc"}}', escalation))
    revocation = st.sampled_from(["revoked:1", "revoked:2"])

    def bucket(limit: Limit, *, own: bool) -> SearchStrategy[Bucket]:
        names = who.map(lambda name: f"rate:{limit}:{name}")
        return st.builds(Bucket, st.just(limit), names, interval, burst, st.just(own))

    opening = st.tuples(bucket("session", own=False), bucket("caller", own=True))
    entries = st.just(()) | st.tuples(bucket("caller", own=True)) | opening
    calls = st.tuples(bucket("tool", own=True)) | st.tuples(bucket("tool", own=True), bucket("global", own=False))
    units = st.integers(1, 5)
    names = who.map(lambda name: f"budget:{name}")
    budgets = st.none() | st.builds(Budget, names, units, st.integers(1, 3))
    return st.one_of(
        st.builds(Admit, st.lists(revocation, max_size=2).map(tuple), st.none() | conducts, entries),
        st.builds(Take, conducts, calls, budgets),
        st.builds(Take, conducts, calls, budgets),
        st.builds(Revoke, revocation, st.booleans()),
        st.builds(Pause, time),
    )


async def asked(store: MemoryStore | RedisStore, step: Step) -> Decision | None:
    """Return what a store decides."""
    match step:
        case Admit():
            return await store.admit(step.revocations, step.conduct, step.buckets)
        case Take():
            return await store.take(step.conduct, step.buckets, step.budget)
        case Revoke():
            await (store.remove(step.name) if step.back else store.write(step.name, "1"))
    return None


def modelled(model: Model, step: Step, now: int) -> Decision | None:
    """Return what the model decides."""
    match step:
        case Admit():
            return model.admit(now, step.revocations, step.conduct, step.buckets)
        case Take():
            return model.take(now, step.conduct, step.buckets, step.budget)
        case Revoke():
            (model.revoked.discard if step.back else model.revoked.add)(step.name)
    return None


async def by_redis(redis: Redis, trace: Trace, speed: int = 1) -> list[Decision | None]:
    """Return the decisions of a Redis, on its clock, which goes `speed` times as fast as ours."""
    store = RedisStore(redis.url, server="notes", longest=PATIENT)
    found = []
    for step in trace:
        if isinstance(step, Pause):
            await asyncio.sleep(step.length / speed / SECOND)
        found.append(await asked(store, step))
    await store.close()
    return found


async def by_others(
    trace: Trace, times: Sequence[int | None], start: int = 0
) -> tuple[list[Decision | None], list[Decision | None]]:
    """Return the decisions of memory and of the model, each at the time that is told for it or that pauses make."""
    now = [start]
    memory, model = MemoryStore(clock=lambda: now[0]), Model()
    found: tuple[list[Decision | None], list[Decision | None]] = ([], [])
    for step, time in zip(trace, times, strict=True):
        if time is not None:
            now[0] = time
        elif isinstance(step, Pause):
            now[0] += step.length
        found[0].append(await asked(memory, step))
        found[1].append(modelled(model, step, now[0]))
    return found
