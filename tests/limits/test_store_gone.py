"""Redis gone: each limit follows its policy, nobody waits, one line and one number tell, and it comes back (L9)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest

from mcp_chassis.limiter import DownPolicy, Entry, Limiter
from mcp_chassis.policy import Rate
from mcp_chassis.request import PROBE_SCOPE, Caller
from mcp_chassis.state import open_store
from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import Limit, MemoryStore, Store, StoreDown
from mcp_chassis.telemetry import STORE_UP
from tests.limits.servers import answers, caller, lateness, rules, until
from tests.support.inside import Log
from tests.support.redis import Redis

pytestmark = pytest.mark.anyio

LONGEST = 0.1
"""Seconds that a call may be delayed (L9)."""
SLOW = Rate(0.001, 2)


class _Gone:
    """A store that never answers."""

    shared = True

    def __getattr__(self, _name: str) -> Any:
        async def fail(*_args: object) -> None:
            raise StoreDown("silent")

        return fail


def limiter_without_store(policies: dict[Limit, DownPolicy], **given: Any) -> Limiter:
    return Limiter(cast(Store, _Gone()), rules(SLOW, policies, **given))


@pytest.mark.parametrize("harm", ["killed", "frozen"])
async def test_L9_nobody_waits_longer_than_promised_under_load(harm: str, redis: Redis, log: Log) -> None:
    store = open_store(redis.url, server="notes")
    limiter = Limiter(store, rules())
    waits: list[tuple[float, float]] = []

    async def call_for_ever(who: int) -> None:
        while True:
            begun = time.monotonic()
            await limiter.admit(caller(who), "", "request", ())
            await limiter.take(caller(who), "search")
            waits.append((begun, time.monotonic()))
            await asyncio.sleep(0.01)

    async with lateness() as late:
        callers = [asyncio.create_task(call_for_ever(who)) for who in range(100)]
        await until(lambda: len(waits) > 300)
        redis.kill() if harm == "killed" else redis.freeze()
        await until(lambda: STORE_UP._value.get() == 0)
        calls = len(waits)
        await until(lambda: len(waits) > calls + 500)
        begun = time.monotonic()
        redis.start() if harm == "killed" else redis.thaw()
        away = time.monotonic() - begun
        await until(lambda: STORE_UP._value.get() == 1)
        calls = len(waits)
        await until(lambda: len(waits) > calls + 300)
        for task in callers:
            task.cancel()
        await asyncio.sleep(0.05)

    # Then what a call waited is explained by the promise and by what held up this whole process
    assert max(ended - begun - late.between(begun, ended) for begun, ended in waits) < LONGEST, away
    lines = [(line["event"], line["level"]) for line in log.lines() if line["event"].startswith("store_")]
    # On a machine that is busy with other things Redis may be silent once more; each silence and its end is told once
    assert lines == ([("store_silent", "error"), ("store_answers", "info")] * len(lines))[: max(2, len(lines))]
    assert log.lines("store_silent")[0]["hint"]
    await store.close()


async def test_L9_long_outage_uses_up_no_connections(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_chassis.state.redis._PAUSE", 0.002)
    monkeypatch.setattr("mcp_chassis.state.redis._PATIENCE", 0.01)
    changes: list[bool] = []
    store = RedisStore(redis.url, server="notes", on_change=changes.append)
    looks = Counter[bool]()
    pipeline = store._link._pipeline

    async def counting(commands: Any) -> list[Any]:
        looks[commands == [("PING",)]] += 1
        return await pipeline(commands)

    monkeypatch.setattr(store._link, "_pipeline", counting)
    redis.freeze()
    assert not await answers(store)
    await until(lambda: looks[True] > 20)
    redis.thaw()
    await until(lambda: answers(store))

    assert changes == [False, True]
    await until(lambda: redis.ask(b"INFO clients").count(b"connected_clients:2\r\n") == 1)
    await store.close()


async def test_L9_redis_that_only_refuses_is_not_called_well(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a Redis that was silent, and now answers the look with an error
    monkeypatch.setattr("mcp_chassis.state.redis._PAUSE", 0.002)
    changes: list[bool] = []
    store = RedisStore(redis.url, server="notes", on_change=changes.append)
    redis.ask(b"ACL SETUSER default -set")
    looks = Counter[bool]()
    well = store._link._well

    async def counting() -> bool:
        looks[found := await well()] += 1
        return found

    monkeypatch.setattr(store._link, "_well", counting)
    redis.freeze()
    assert not await answers(store)
    redis.thaw()

    await until(lambda: looks.total() > 5)
    assert (looks[True], changes) == (0, [False])

    redis.ask(b"ACL SETUSER default +set")
    await until(lambda: changes == [False, True])
    await store.close()


@pytest.mark.parametrize(
    ("harm", "cure"),
    [
        (b"CONFIG SET maxmemory 1", b"CONFIG SET maxmemory 0"),
        (b"REPLICAOF 127.0.0.1 1", b"REPLICAOF NO ONE"),
    ],
    ids=["out of memory", "read only"],
)
async def test_L9_redis_that_can_keep_nothing_counts_as_down(harm: bytes, cure: bytes, redis: Redis) -> None:
    changes: list[bool] = []
    store = RedisStore(redis.url, server="notes", on_change=changes.append)
    limiter = Limiter(store, rules(Rate(0.01, 2)))
    assert (await limiter.take(caller(), "search")).refusing is None

    redis.ask(harm)
    assert (await limiter.take(caller(), "search")).refusing is None
    assert changes == [False]

    redis.ask(cure)
    await until(lambda: changes == [False, True])
    await store.close()


async def test_L6_openings_of_an_address_suspend_nobody() -> None:
    limiter = limiter_without_store({}, refusals=1)
    found = [(await limiter.admit(caller(who), "192.0.2.1", "opening", ())).refusing for who in range(5)]

    assert found == [None, None, "session", "session", "session"]
    assert (await limiter.admit(caller(4), "192.0.2.1", "request", ())).refusing is None


async def test_L6_caller_that_opens_session_after_session_leaves_room_to_its_neighbours() -> None:
    few = replace(rules(Rate(0.001, 10), refusals=3), session_of_caller=SLOW)
    limiter = Limiter(MemoryStore(), few)
    found = [(await limiter.admit(caller(), "192.0.2.1", "opening", ())).refusing for _ in range(6)]

    assert found == [None, None, "session", "session", "session", "suspended"]
    assert (await limiter.admit(caller(1), "192.0.2.1", "opening", ())).refusing is None


@pytest.mark.parametrize("policy", ["local", "open", "closed"])
@pytest.mark.parametrize("limit", ["session", "caller", "tool", "budget", "global"])
async def test_L9_each_limit_follows_its_own_policy(limit: Limit, policy: DownPolicy) -> None:
    # Given a policy for one limit, and all others open
    everywhere: dict[Limit, DownPolicy] = {"session": "open", "caller": "open", "tool": "open", "budget": "open"}
    budget, everybody = (2 if limit == "budget" else None), (SLOW if limit == "global" else None)
    limiter = limiter_without_store({**everywhere, "global": "open", limit: policy}, budget=budget, everybody=everybody)

    # When there are five attempts
    found = []
    for _ in range(5):
        if limit in ("session", "caller"):
            entry: Entry = "opening" if limit == "session" else "request"
            found.append(await limiter.admit(caller(), "192.0.2.1", entry, ()))
        else:
            found.append(await limiter.take(caller(), "search"))

    # Then it counts here, admits all, or refuses all without pretending to know until when
    admitted = {"local": 2, "open": 5, "closed": 0}[policy]
    assert [decision.refusing for decision in found] == [None] * admitted + [limit] * (5 - admitted)
    assert {decision.estimate for decision in found if decision.refusing} <= {policy == "closed"}
    others = await limiter.take(caller(), "search") if limit in ("session", "caller") else None
    assert others is None or others.refusing is None


async def test_L9_one_closed_limit_refuses_and_takes_nothing_of_the_others() -> None:
    limiter = limiter_without_store({"global": "closed"}, everybody=SLOW)
    assert [(await limiter.take(caller(), "search")).refusing for _ in range(5)] == ["global"] * 5
    assert limiter._fallback is None


async def test_L9_misconduct_is_suspended_in_process_while_redis_is_away() -> None:
    limiter = limiter_without_store({}, refusals=3)
    found = [(await limiter.take(caller(), "search")).refusing for _ in range(7)]

    assert found == [None, None, "tool", "tool", "tool", "suspended", "suspended"]
    assert (await limiter.admit(caller(), "", "request", ())).refusing == "suspended"
    assert (await limiter.admit(caller(1), "", "request", ())).refusing is None


async def test_A3_revocation_that_nobody_can_judge_is_left_to_its_own_policy() -> None:
    limiter = limiter_without_store({"caller": "open", "session": "open"})
    for entry in ("free", "opening", "request"):
        with pytest.raises(StoreDown):
            await limiter.admit(caller(), "", entry, ["revoked:key:1"])
        assert (await limiter.admit_without_store(caller(), "", entry)).refusing is None


async def test_L10_what_is_free_asks_the_store_nothing() -> None:
    limiter = limiter_without_store(dict.fromkeys(("session", "caller", "tool", "budget", "global"), "closed"))
    probe = Caller(id="monitor", scopes=frozenset({PROBE_SCOPE}))

    assert (await limiter.admit(caller(), "", "free", ())).refusing is None
    for entry in ("free", "opening", "request"):
        assert (await limiter.admit(probe, "", entry, ())).refusing is None
    assert (await limiter.take(probe, "search")).refusing is None
