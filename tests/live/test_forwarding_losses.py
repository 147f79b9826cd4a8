"""A session whose owner dies, freezes, drains, or broke off in the middle of an answer (S5, S3, E1)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.live.curl import BOTH, JSON
from tests.live.fleet import Fleet, Keys
from tests.live.gate import gate
from tests.live.peered import Site, answer, at, begin, calling, listening, session_of, site, streaming
from tests.live.peers import OK, Peer, Reply, becomes
from tests.live.project import DEADLINE, Project, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("forwarding-owners")]

UNKNOWN: Final = "404 unknown_session"
FORWARDED: Final = 'mcp_forwarded_requests_total{{outcome="{}"}}'
IN_FLIGHT: Final = "mcp_requests_in_flight"
AT_ONCE: Final = 5.0
"""Seconds: far above what a busy machine needs, far below what waiting for a dead replica would take."""


@pytest.fixture
async def http(keys: Keys) -> AsyncIterator[httpx2.AsyncClient]:
    """Return the connections of one caller."""
    async with calling(keys.headers("ann")) as found:
        yield found


async def harmed(place: Site, http: httpx2.AsyncClient, stack: ExitStack) -> tuple[ServerProcess, ServerProcess, Peer]:
    """Return a replica to harm, another one, and a client of the first at the second."""
    owner, other = (stack.enter_context(place.replica()) for _ in range(2))
    return owner, other, at(await begin(http, owner.url), other.url)


def kill(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.wait()


async def test_S5_session_of_a_killed_replica_is_unknown_at_once(
    extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with site(extended, keys, tmp_path) as place, ExitStack() as stack:
        owner, _, there = await harmed(place, http, stack)
        assert (await there.call("stock_nothing")).outcome == OK  # over a connection that is kept

        kill(owner)
        begun = time.monotonic()
        found = [await there.call("stock_nothing"), await there.end()]

        assert [reply.outcome for reply in found] == [UNKNOWN] * 2
        assert time.monotonic() - begun < AT_ONCE
        again = await begin(http, there.conversation.url)
        assert (await again.call("stock_nothing")).outcome == OK


async def test_S5_call_that_was_lost_with_its_replica_is_told_and_not_repeated(
    extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with site(extended, keys, tmp_path) as place, ExitStack() as stack:
        owner, other, there = await harmed(place, http, stack)
        async with gate() as held, streaming(there, "announce_and_hold", {"port": held.port}, id=5) as events:
            quiet = asyncio.create_task(there.call("hold", {"port": held.port}, accept=JSON, id=6))
            progress = await events.next()
            assert progress is not None
            assert progress["method"] == "notifications/progress"
            async with listening(there) as stream:
                await held.holds(2)

                kill(owner)
                [last] = await events.rest()
                single = await quiet
                assert await stream.rest() == []

            await held.holds(0)
        assert place.fleet(other).metric(FORWARDED.format("owner_lost")) == 3

    assert (last["id"], last["error"]["code"]) == (5, -32603)
    assert events.response.headers["x-request-id"] == last["error"]["data"]["requestId"]
    assert last["error"]["data"]["requestId"] in last["error"]["message"]
    assert (single.outcome, single.answer.message["id"]) == ("502 owner_lost", 6)
    assert "may have been done" in single.text


async def test_S5_client_that_leaves_a_frozen_owner_leaves_nothing_behind(
    extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with site(extended, keys, tmp_path) as place, ExitStack() as stack:
        owner, other, there = await harmed(place, http, stack)
        fleet = place.fleet(other)
        os.kill(owner.pid, signal.SIGSTOP)
        try:
            requests = [asyncio.create_task(there.call("stock_nothing")) for _ in range(5)]
            requests += [asyncio.create_task(first_of(there))]
            await becomes_metric(fleet, IN_FLIGHT, len(requests))
            assert connections(other, owner)

            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

            await becomes_metric(fleet, FORWARDED.format("client_gone"), len(requests))
            await becomes_metric(fleet, IN_FLIGHT, 0)
            async with asyncio.timeout(DEADLINE):
                while connections(other, owner):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            os.kill(owner.pid, signal.SIGCONT)
        await becomes(OK, lambda: there.call("stock_nothing"))


async def first_of(peer: Peer) -> Reply:
    """Open the session's stream and leave at once."""
    async with peer.listening() as reply:
        return reply


def connections(server: ServerProcess, peer: ServerProcess) -> list[str]:
    """Return the connections of a process to the port of another one."""
    told = subprocess.run(
        ["ss", "--tcp", "--numeric", "--processes", "--no-header", "dport", "=", f":{urlsplit(peer.url).port}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return [line for line in told.stdout.splitlines() if f"pid={server.pid}," in line]


async def becomes_metric(fleet: Fleet, name: str, value: float) -> None:
    """Wait until the metric shows this value."""
    end = time.monotonic() + DEADLINE
    while (shown := await asyncio.to_thread(fleet.metric, name)) != value:
        assert time.monotonic() < end, shown
        await asyncio.sleep(0.02)


async def test_S3_draining_replica_gives_its_idle_sessions_away_and_ends_its_calls(
    extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with site(extended, keys, tmp_path) as place, ExitStack() as stack:
        owner, other, there = await harmed(place, http, stack)
        idle = at(await begin(http, owner.url), other.url)
        async with streaming(there, "test_elicitation", {"message": "Who?"}) as events:
            question = await events.next()
            assert question is not None

            os.kill(owner.pid, signal.SIGTERM)
            owner.wait_for("drain_started", calls=1)
            await becomes(UNKNOWN, lambda: idle.call("stock_nothing"))
            named = [place.owner(session_of(peer)) for peer in (idle, there)]
            refused = await there.call("stock_nothing")
            status = await answer(there, question, {"username": "ann", "email": "a@example.com"})

            [result] = await events.rest()
        code = owner.wait()
        after = await there.call("stock_nothing")

    assert named == ["", owner.url.removesuffix("/mcp")]
    assert (refused.outcome, refused.answer.headers["retry-after"]) == ("503 draining", "1")
    assert (status, code) == (202, 0)
    assert "'username': 'ann'" in result["result"]["content"][0]["text"]
    assert after.outcome == UNKNOWN


async def test_S3_draining_replica_passes_on_what_it_forwards_until_it_is_answered(
    extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with site(extended, keys, tmp_path) as place, ExitStack() as stack:
        _, other, there = await harmed(place, http, stack)
        async with gate() as held, streaming(there, "announce_and_hold", {"port": held.port}) as events:
            await held.holds(1)

            os.kill(other.pid, signal.SIGTERM)
            other.wait_for("drain_started", calls=1)
            await held.open()

            *_, last = await events.rest()

        assert last["result"]["content"][0]["text"] == "held"
        assert other.wait() == 0


@pytest.mark.parametrize("accept", [BOTH, JSON])
@pytest.mark.parametrize("end", ["deadline", "second signal"])
async def test_S3_request_that_another_replica_answers_is_told_when_the_drain_ends_it(
    end: str, accept: str, extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with site(extended, keys, tmp_path) as place, ExitStack() as stack:
        owner = stack.enter_context(place.replica())
        other = stack.enter_context(place.replica(DRAIN_TIMEOUT="1" if end == "deadline" else "60"))
        there = at(await begin(http, owner.url), other.url)
        async with gate() as held:
            call = asyncio.create_task(there.call("announce_and_hold", {"port": held.port}, accept=accept))
            await held.holds(1)

            os.kill(other.pid, signal.SIGTERM)
            other.wait_for("drain_started", calls=1)
            if end == "second signal":
                os.kill(other.pid, signal.SIGTERM)
            reply = await call
            code = await asyncio.to_thread(other.wait)
            await held.open()

    assert reply.meta["reason"] == "interrupted"
    assert reply.answer.status == (200 if accept == BOTH else 503)
    assert code == 1
    assert other.wait_for("drained")["cut"] == 0
