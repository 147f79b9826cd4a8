"""Two replicas share a Redis: what one revokes, the other refuses; what happens when the Redis is gone (A3)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_chassis.auth import Revocations, keys
from mcp_chassis.auth.keys import FileKeyring, StoreKeyring
from mcp_chassis.state.redis import RedisStore
from tests.identity.issuer import Issuer
from tests.identity.serving import Served, bearer, serving, settings
from tests.identity.wire import DEADLINE, ERAS, Answer, Era, Peer, exchange, raw
from tests.support.inside import Log
from tests.support.redis import Redis, running

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def replicas(redis: Redis, issuer: Issuer, file: Path | None, **given: Any) -> AsyncIterator[list[Served]]:
    """Serve twice from the same settings."""
    known = {"auth": ("keys", "jwt"), "jwt_issuer": issuer.url, "api_keys_file": file, "state_url": redis.url}
    known["state_timeout"] = "0.3"  # `tests/limits` holds the server to its own, shorter time
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(settings(**(known | given)))) for _ in range(2)]


@asynccontextmanager
async def store_of(redis: Redis) -> AsyncIterator[RedisStore]:
    """Reach the store as a command in a third process does."""
    store = RedisStore(redis.url, server="notes", longest=5)
    yield store
    await store.close()


async def health_becomes(served: Served, *expected: object) -> dict[str, Any]:
    """Wait until the server tells this status and word; return what it tells of the store."""
    while True:
        answer = await exchange(served.port, raw("GET", [], path="/health"))
        told = json.loads(answer.body)
        if (answer.status, told["status"]) == expected:
            return dict(told["checks"]["store"])
        await asyncio.sleep(0.05)


def a_key(file: Path) -> str:
    key, record = keys.create("ann")
    with FileKeyring(file).editing() as kept:
        kept[record.id] = record
    return key


async def becomes(peer: Peer, status: int) -> Answer:
    """Call until the answer has this status."""
    end = time.monotonic() + DEADLINE
    while (answer := await peer.call("whoami")).status != status:
        assert time.monotonic() < end, answer
        await asyncio.sleep(0.01)
    return answer


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("kind", ["key in a file", "key in the store", "token", "subject"])
async def test_A3_what_one_replica_knows_as_revoked_the_other_refuses_at_its_next_request(
    kind: str, era: Era, redis: Redis, issuer: Issuer, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json" if kind == "key in a file" else None
    async with store_of(redis) as store:
        if file is not None:
            credential = a_key(file)
        elif kind == "key in the store":
            credential, record = keys.create("ann")
            await StoreKeyring(store).put(record)
        else:
            credential = issuer.token(jti="t-1")
        async with replicas(redis, issuer, file) as both:
            peers = [await served.opened(era, [bearer(credential)]) for served in both]
            assert [(await peer.call("whoami")).status for peer in peers] == [200, 200]

            match kind:
                case "token":
                    await Revocations(store).revoke("token", "t-1", 60)
                case "subject":
                    await Revocations(store).revoke("subject", "ann", 60)
                case _:
                    await Revocations(store).revoke("key", keys.split(credential)[0], None)

            assert [(await peer.call("whoami")).reason() for peer in peers] == ["revoked", "revoked"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("harm", ["killed", "frozen"])
async def test_A3_deny_answers_503_while_the_store_is_silent_and_recovers(
    harm: str, era: Era, redis: Redis, issuer: Issuer, tmp_path: Path, log: Log
) -> None:
    key = a_key(file := tmp_path / "keys.json")
    async with replicas(redis, issuer, file) as (served, _):
        # Given two callers, and a store that falls silent
        peers = [await served.opened(era, [bearer(credential)]) for credential in (key, issuer.token())]
        redis.kill() if harm == "killed" else redis.freeze()
        handled = len(served.handled)

        # When they call, more than once
        begun = time.monotonic()
        refused = [await peer.call("whoami") for peer in peers * 2]

        # Then nobody waits long, nobody is told to log in again, and no MCP code runs
        assert time.monotonic() - begun < 4 * 0.4
        assert {(answer.status, answer.reason()) for answer in refused} == {(503, "revocation_undecidable")}
        assert {answer.header("retry-after") for answer in refused} == {"5"}
        assert {answer.header("www-authenticate") for answer in refused} == {None}
        assert len(served.handled) == handled
        async with asyncio.timeout(10):
            assert (await health_becomes(served, 503, "unhealthy"))["error"] == "StoreDown"
        # One line a replica, however many calls.
        assert [set(line) & {"hint", "reason"} for line in log.lines("store_silent")] in ([{"hint"}], [{"hint"}] * 2)

        # And when the store is back, all is well without help
        redis.start() if harm == "killed" else redis.thaw()
        for peer in peers:
            await becomes(peer, 200)
        assert len(log.lines("store_answers")) in (1, 2)


@pytest.mark.parametrize("era", ERAS)
async def test_A3_allow_lets_valid_credentials_pass_while_the_store_is_silent(
    era: Era, redis: Redis, issuer: Issuer, tmp_path: Path, log: Log
) -> None:
    key = a_key(file := tmp_path / "keys.json")
    async with replicas(redis, issuer, file, revocation_when_store_down="allow") as (served, _), store_of(redis) as one:
        peer = await served.opened(era, [bearer(key)])
        await Revocations(one).revoke("subject", "leaver", 3600)
        redis.kill()

        assert [(await peer.call("whoami")).status for _ in range(3)] == [200] * 3
        assert (await peer.claiming(bearer("bad")).call("whoami")).status == 401
        async with asyncio.timeout(10):
            assert (await health_becomes(served, 200, "degraded"))["status"] == "degraded"

        redis.start()
        await Revocations(one).revoke("subject", "ann", 60)
        assert (await becomes(peer, 401)).reason() == "revoked"
    told = [line["event"] for line in log.lines() if line["event"].startswith("store_")]
    assert sorted(set(told)) == ["store_answers", "store_silent"]
    assert len(told) <= 4


@pytest.mark.parametrize("policy", ["deny", "allow"])
async def test_A3_keys_that_are_kept_in_the_store_cannot_be_judged_without_it(
    policy: str, redis: Redis, issuer: Issuer, log: Log
) -> None:
    key, record = keys.create("ann")
    async with store_of(redis) as store:
        await StoreKeyring(store).put(record)
        async with replicas(redis, issuer, None, revocation_when_store_down=policy) as (served, _):
            peer = served.peer("stateless", [bearer(key)])
            assert (await peer.call("whoami")).status == 200
            redis.kill()

            refused = [await peer.call("whoami") for _ in range(2)]

            assert {(answer.status, answer.reason()) for answer in refused} == {(503, "keys_unavailable")}
            assert len(log.lines("store_silent")) in (1, 2)
            redis.start()
            await StoreKeyring(store).put(record)
            await becomes(peer, 200)
            assert len(log.lines("store_answers")) in (1, 2)


async def test_A3_foreign_record_in_the_store_is_503_and_no_crash(redis: Redis, issuer: Issuer, log: Log) -> None:
    key, record = keys.create("ann")
    async with store_of(redis) as store, replicas(redis, issuer, None) as (served, _):
        await store.write(f"key:{record.id}", "{")

        refused = await served.peer("stateless", [bearer(key)]).call("whoami")

    assert (refused.status, refused.reason()) == (503, "keys_unavailable")
    assert not log.lines("crashed")


async def test_A3_neither_password_nor_credential_leaves_the_server(issuer: Issuer, tmp_path: Path, log: Log) -> None:
    key = a_key(file := tmp_path / "keys.json")
    secrets = [key, keys.split(key)[1], token := issuer.token(), "s3cret-password"]
    with running(tmp_path / "redis", password="s3cret-password") as redis:
        async with replicas(redis, issuer, file) as (served, _):
            shown: list[object] = []
            for credential in (key, token, key[:-1], token[:-2], f"{key} {token}"):
                peer = served.peer("stateless", [bearer(credential)])
                shown += [await peer.call("whoami"), await peer.call("discard"), await peer.call("nobody")]
            shown.append(await exchange(served.port, raw("GET", [bearer(key)], path="/health")))
            redis.kill()
            shown.append(await served.peer("stateless", [bearer(key)]).call("whoami"))

    assert log.lines("store_silent")
    everything = log.text() + repr(shown)
    assert not [secret for secret in secrets if secret in everything]
