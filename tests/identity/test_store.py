"""One interface to state: the store of this process and Redis give the same answers (A3, L8)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mcp_chassis.auth import Revocations, keys
from mcp_chassis.auth.keys import StoreKeyring, UnreadableKeyring
from mcp_chassis.state import open_store
from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import MemoryStore, Store, StoreDown
from tests.support.redis import Redis, running

LONGEST = 0.3
"""Seconds after which a store that does not answer has to be given up."""
PATIENT = 5.0
"""Seconds that a busy machine may take where a test is not about time."""
BACK = 5.0
"""Seconds after which a store that is back has to be in use again; it takes 0.3 s on an idle machine."""

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NAME = st.sampled_from(["a", "a:b", "b", "b*", "b?", "[b]", "b\\", "ü", "{x}", "}"]) | TEXT
STEP = st.one_of(
    st.tuples(st.just("write"), NAME, TEXT, st.none() | st.floats(30, 1e6)),
    st.tuples(st.just("read"), st.lists(NAME, max_size=4)),
    st.tuples(st.just("remove"), NAME),
    st.tuples(st.just("names"), NAME),
)


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Run one Redis for tests that do not harm it."""
    with running(tmp_path_factory.mktemp("redis")) as found:
        yield found


async def played(store: Store, trace: Sequence[tuple[object, ...]]) -> list[object]:
    seen: list[object] = []
    for step in trace:
        match step:
            case ("write", str(name), str(text), float() | None as seconds):
                await store.write(name, text, seconds)
            case ("read", list(names)):
                seen.append(await store.read(names))
            case ("remove", str(name)):
                await store.remove(name)
            case ("names", str(prefix)):
                seen.append(await store.names(prefix))
    return seen


async def answering_again(store: Store) -> None:
    """Return once the store has noticed that its Redis is back."""
    end = time.monotonic() + BACK
    while True:
        try:
            await store.read(["a"])
            return
        except StoreDown:
            assert time.monotonic() < end, "the store does not come back"
            await asyncio.sleep(0.01)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=20), st.sampled_from(["notes", "a b", "n*", "n\\", "[n]", "Zoë"]))
@example([("write", "b\\", "1", None), ("names", "b\\"), ("names", ""), ("names", "b")], "n\\")
@example([("write", "b*", "1", None), ("write", "bc", "2", None), ("names", "b*")], "n*")
@example([("write", "[b]", "1", None), ("write", "b", "2", None), ("names", "[b]"), ("read", [])], "[n]")
def test_L8_both_stores_give_the_same_for_the_same_trace(
    shared_redis: Redis, trace: list[tuple[object, ...]], server: str
) -> None:
    async def both() -> tuple[list[object], list[object]]:
        redis = RedisStore(shared_redis.url, server=server, longest=PATIENT)
        try:
            return await played(MemoryStore(), trace), await played(redis, trace)
        finally:
            await redis.close()

    shared_redis.ask(b"FLUSHALL")
    memory, redis = asyncio.run(both())

    assert memory == redis


@pytest.mark.anyio
async def test_A3_all_keys_of_a_server_are_under_one_hash_tag(redis: Redis) -> None:
    store = RedisStore(redis.url, server="notes", longest=PATIENT)
    _, record = keys.create("ann")
    await StoreKeyring(store).put(record)
    await Revocations(store).revoke("key", record.id, None)
    await Revocations(store).revoke("token", "j" * 500, 60)
    await Revocations(store).revoke("subject", "Zoë {x}\r\n", 60)
    await store.close()

    names = redis.names()

    assert len(names) == 4
    assert all(name.startswith("{notes}:") and name.isascii() for name in names)


@pytest.mark.anyio
async def test_A3_servers_that_share_a_redis_do_not_see_each_other(redis: Redis) -> None:
    notes, mail = (RedisStore(redis.url, server=name, longest=PATIENT) for name in ("notes", "mail"))
    await notes.write("key:1", "mine")

    assert await mail.read(["key:1"]) == [None]
    assert await mail.names("") == []
    for store in (notes, mail):
        await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_A3_text_ends_when_its_time_has_passed(kind: str, redis: Redis) -> None:
    store = open_store("memory://" if kind == "memory" else redis.url, server="notes", longest=PATIENT)
    begun = time.monotonic()
    await store.write("short", "1", 0.2)
    await store.write("long", "1", 60)

    while await store.read(["short"]) == ["1"]:
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.005)

    assert time.monotonic() - begun >= 0.19
    assert await store.read(["short", "long"]) == [None, "1"]
    assert await store.names("") == ["long"]
    await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("harm", ["killed", "frozen", "killed_before_use", "frozen_before_use"])
async def test_A3_silent_redis_is_given_up_in_time_and_comes_back_by_itself(harm: str, redis: Redis) -> None:
    store = RedisStore(redis.url, server="notes")
    if not harm.endswith("use"):
        await store.write("a", "1")

    redis.kill() if harm.startswith("killed") else redis.freeze()
    for attempt in (store.read(["a"]), store.write("b", "1"), store.remove("a"), store.names("a")):
        begun = time.monotonic()
        with pytest.raises(StoreDown):
            await attempt
        assert time.monotonic() - begun < LONGEST

    redis.start() if harm.startswith("killed") else redis.thaw()
    await answering_again(store)
    await store.write("c", "1")
    assert await store.read(["c"]) == ["1"]
    await store.close()


@pytest.mark.anyio
async def test_A3_burst_on_a_silent_redis_waits_no_longer(redis: Redis) -> None:
    store = RedisStore(redis.url, server="notes")
    redis.freeze()

    begun = time.monotonic()
    found = await asyncio.gather(*(store.read(["a"]) for _ in range(200)), return_exceptions=True)

    assert {type(answer) for answer in found} == {StoreDown}
    assert time.monotonic() - begun < LONGEST * 2
    redis.thaw()
    await store.close()


@pytest.mark.anyio
async def test_A3_burst_does_not_run_out_of_connections(redis: Redis) -> None:
    store = RedisStore(redis.url, server="notes", longest=PATIENT)
    await store.write("a", "1")

    found = await asyncio.gather(*(store.read(["a"]) for _ in range(300)))

    assert found == [["1"]] * 300
    await store.close()


@pytest.mark.anyio
async def test_A3_redis_that_refuses_the_password_is_down_and_not_quoted(tmp_path: Path) -> None:
    with running(tmp_path / "redis", password="right-password") as redis:
        store = RedisStore(redis.url.replace("right", "wrong"), server="notes")
        with pytest.raises(StoreDown) as down:
            await store.read(["a"])
        await store.close()

    assert "password" not in str(down.value)


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "abcdefghijkl"}', "\x00"])
async def test_A4_foreign_text_in_the_store_is_no_record(text: str) -> None:
    store = MemoryStore()
    await store.write("key:abcdefghijkl", text)

    with pytest.raises(UnreadableKeyring):
        await StoreKeyring(store).find("abcdefghijkl")
    with pytest.raises(UnreadableKeyring):
        await StoreKeyring(store).records()
