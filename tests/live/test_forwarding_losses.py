"""A session whose owner dies, freezes, drains, or broke off in the middle of an answer (S5, S3, E1)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.live.curl import JSON
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
        fleet, before = place.fleet(other), sockets(other)
        os.kill(owner.pid, signal.SIGSTOP)
        try:
            requests = [asyncio.create_task(there.call("stock_nothing")) for _ in range(5)]
            requests += [asyncio.create_task(first_of(there))]
            await becomes_metric(fleet, IN_FLIGHT, len(requests))
            assert sockets(other) > before

            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

            await becomes_metric(fleet, FORWARDED.format("client_gone"), len(requests))
            await becomes_metric(fleet, IN_FLIGHT, 0)
            async with asyncio.timeout(DEADLINE):
                # Two come and go with the look at the metrics
                while sockets(other) > before + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            os.kill(owner.pid, signal.SIGCONT)
        await becomes(OK, lambda: there.call("stock_nothing"))


async def first_of(peer: Peer) -> Reply:
    """Open the session's stream and leave at once."""
    async with peer.listening() as reply:
        return reply


def sockets(server: ServerProcess) -> int:
    """Return how many sockets a process has open."""
    found = 0
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(link.readlink()).startswith("socket:")
    return found


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
