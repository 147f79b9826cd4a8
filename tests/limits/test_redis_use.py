"""What Redis sees: one round trip a decision, keys under one hash tag that all end, and scripts that come back (L8)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count

import pytest

from mcp_chassis.limiter import Limiter
from mcp_chassis.policy import Rate
from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import StoreDown
from tests.limits.servers import answers, caller, rules, until
from tests.limits.traces import PATIENT
from tests.support.redis import Redis

pytestmark = pytest.mark.anyio

TOGETHER = 30
"""Commands that fit into one read of Redis, which is 16 KiB."""
QUESTION = 2
"""Reads that a question of this test takes itself: its command, and the end of its connection."""


@pytest.fixture
def changes() -> list[bool]:
    """Return what the store tells of Redis's coming and going."""
    return []


@pytest.fixture
async def store(redis: Redis, changes: list[bool]) -> AsyncIterator[RedisStore]:
    """Reach a Redis of this test's own."""
    found = RedisStore(redis.url, server="notes", longest=PATIENT, on_change=changes.append)
    yield found
    await found.close()


def number(redis: Redis, section: bytes, name: str) -> int:
    """Return a number of Redis about itself, 0 if it tells none."""
    found = re.search(rf"^{name}(?::|:calls=)(\d+)", redis.ask(b"INFO " + section).decode(), re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("kind", ["flushed", "restarted"])
async def test_L8_lost_scripts_are_loaded_again_and_no_caller_notices(
    kind: str, redis: Redis, store: RedisStore, changes: list[bool]
) -> None:
    limiter = Limiter(store, rules(Rate(1, 1)))
    assert (await limiter.admit(caller(0), "", "request", ())).refusing is None

    if kind == "flushed":
        redis.ask(b"SCRIPT FLUSH")
    else:
        redis.kill()
        redis.start()
    found = await asyncio.gather(*(limiter.admit(caller(who), "", "request", ()) for who in (1, 2, 2)))
    taken = await limiter.take(caller(0), "search")

    assert [decision.refusing for decision in (*found, taken)] == [None, None, "caller", None]
    assert changes == []


async def test_L8_all_keys_are_under_the_hash_tag_and_all_end(redis: Redis, store: RedisStore) -> None:
    limiter = Limiter(store, replace(rules(Rate(1, 1), budget=1, refusals=1), everybody=Rate(1, 1)))
    for who in (0, 0, 1, 1, 2):
        await limiter.admit(caller(who), "192.0.2.1", "request", ["revoked:key:1"])
        await limiter.admit(caller(who), "192.0.2.1", "opening", ())
        await limiter.take(caller(who), "search")

    names = redis.names()

    assert {name.split(":")[1] for name in names} == {"rate", "budget", "conduct"}
    for name in names:
        assert name.startswith("{notes}:")
        assert int(redis.ask(f"PTTL {name}".encode())[1:]) > 0


async def test_L4_what_was_spent_on_another_day_is_not_counted_though_it_is_kept(
    redis: Redis, store: RedisStore
) -> None:
    limiter = Limiter(store, rules(budget=1))
    assert (await limiter.take(caller(), "search")).refusing is None
    assert (await limiter.take(caller(), "search")).refusing == "budget"
    (name,) = (name for name in redis.names() if ":budget:" in name)

    redis.ask(f'SET {name} "20000 1"'.encode())

    assert (await limiter.take(caller(), "search")).refusing is None


@pytest.mark.parametrize("kind", ["admit", "take"])
async def test_L8_decision_is_one_round_trip(kind: str, redis: Redis, store: RedisStore) -> None:
    limiter = Limiter(store, rules(Rate(1, 5), budget=100, refusals=3, everybody=Rate(1, 5)))
    await limiter.admit(caller(), "", "request", ())
    redis.ask(b"CONFIG RESETSTAT")

    reads = number(redis, b"stats", "total_reads_processed")
    for _ in range(20):
        if kind == "admit":
            await limiter.admit(caller(), "192.0.2.1", "request", ["revoked:key:1", "revoked:subject:1"])
        else:
            await limiter.take(caller(), "search")

    assert number(redis, b"stats", "total_reads_processed") - reads - QUESTION == 20
    assert number(redis, b"commandstats", "cmdstat_evalsha") == 20
    assert number(redis, b"commandstats", r"cmdstat_script\|load") == 0


async def test_L8_commands_that_come_together_travel_together(redis: Redis, store: RedisStore) -> None:
    limiter = Limiter(store, rules())
    await limiter.admit(caller(), "", "request", ())
    redis.ask(b"CONFIG RESETSTAT")

    reads = number(redis, b"stats", "total_reads_processed")
    await asyncio.gather(*(limiter.admit(caller(who), "", "request", ()) for who in range(TOGETHER)))

    assert number(redis, b"stats", "total_reads_processed") - reads - QUESTION == 1
    assert number(redis, b"commandstats", "cmdstat_evalsha") == TOGETHER


@pytest.mark.parametrize("seen", [False, True])
async def test_L8_idle_connection_that_redis_closed_is_no_outage(
    seen: bool, redis: Redis, store: RedisStore, changes: list[bool]
) -> None:
    await store.write("a", "1")
    redis.ask(b"CLIENT KILL TYPE normal SKIPME yes")
    if seen:
        await until(lambda: number(redis, b"clients", "connected_clients") == 1)

    assert await store.read(["a"]) == ["1"]
    assert changes == []


async def test_L9_no_answer_is_mixed_up_after_freezing_in_the_middle(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_chassis.state.redis._PAUSE", 0.01)
    store = RedisStore(redis.url, server="notes")
    numbers, seen = count(), {"right": 0, "down": 0}

    async def ask_for_ever(who: int) -> None:
        for turn in numbers:
            name, text = f"name-{who}", f"{who} {turn}"
            try:
                await store.write(name, text)
                assert await store.read([name]) == [text]
                seen["right"] += 1
            except StoreDown:
                seen["down"] += 1
            await asyncio.sleep(0)

    askers = [asyncio.create_task(ask_for_ever(who)) for who in range(20)]
    for _ in range(6):
        before = dict(seen)
        await until(lambda: seen["right"] > before["right"] + 50)  # noqa: B023
        redis.freeze()
        await until(lambda: seen["down"] > before["down"] + 50)  # noqa: B023
        redis.thaw()
    await until(lambda: answers(store))

    assert not [task for task in askers if task.done()]
    for task in askers:
        task.cancel()
    await store.close()


async def test_L9_foreign_bytes_in_redis_let_nobody_wait_for_ever(redis: Redis) -> None:
    store = RedisStore(redis.url, server="notes", longest=PATIENT)
    redis.ask(b'SET {notes}:foreign "\\xff\\xfe"')
    await store.write("own", "1")

    async with asyncio.timeout(PATIENT):
        with pytest.raises(StoreDown):
            await store.read(["foreign"])
        await until(lambda: answers(store))
        assert await store.read(["own"]) == ["1"]
    await store.close()


@pytest.mark.parametrize("when", ["asking", "waiting", "recovering"])
async def test_L9_closing_lets_nobody_wait_for_ever_and_leaves_no_task(when: str, redis: Redis) -> None:
    # Given commands that are about to be sent, or wait for a frozen Redis, or a store that looks whether it is back
    before = asyncio.all_tasks()
    store = RedisStore(redis.url, server="notes", longest=0.05 if when == "recovering" else PATIENT)
    await store.write("a", "1") if when != "recovering" else None
    redis.freeze()
    asked = [asyncio.create_task(store.read(["a"])) for _ in range(3)]
    await asyncio.sleep(0)
    if when != "asking":
        await until(lambda: store._link._waiting == [])
    asked[0].cancel()
    if when == "recovering":
        await until(lambda: store._link._recovery is not None)

    await store.close()

    async with asyncio.timeout(PATIENT / 2):
        found = await asyncio.gather(*asked, return_exceptions=True)
        await until(lambda: asyncio.all_tasks() == before)
    assert [type(answer) for answer in found] == [asyncio.CancelledError, StoreDown, StoreDown]
    redis.thaw()
