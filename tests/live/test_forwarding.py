"""A session answers through any replica, as if there were one (S5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.live.curl import BOTH, EVENTS, HANDSHAKE, JSON, Conversation
from tests.live.fleet import Fleet, Keys
from tests.live.gate import Gate, gate
from tests.live.peered import Site, answer, at, balancer, begin, calling, listening, pair, revoke, session_of, streaming
from tests.live.peers import OK, Peer, Reply, becomes
from tests.live.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("forwarding")]

SESSIONS: Final = 1000
AT_ONCE: Final = 40
SECONDS, STEPS = 1.6, 8
PACE: Final = SECONDS / STEPS
SMOOTH: Final = 0.8
"""Share of the time between the first and the last event as sent that is left between them as received."""
UNKNOWN: Final = "404 unknown_session"
FORWARDED: Final = 'mcp_forwarded_requests_total{{outcome="{}"}}'
FAULTS: Final = ("owner_gone", "owner_lost", "client_gone", "undecidable")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return keys of these tests' own: one is revoked."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def shared(extended: Project, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Fleet]]:
    """Return two replicas with room for all tests here that bring no settings of their own."""
    room = {"MAX_SESSIONS_PER_CALLER": "2000", "MAX_SESSIONS": "2000", "MAX_STREAMS_PER_CALLER": "1000"}
    with pair(extended, keys, tmp_path_factory.mktemp("pair"), **room) as found:
        yield found


@pytest.fixture
def fleet(shared: tuple[Site, Fleet]) -> Fleet:
    """Return the two replicas."""
    return shared[1]


@pytest.fixture
async def http(keys: Keys) -> AsyncIterator[httpx2.AsyncClient]:
    """Return the connections of one caller."""
    async with calling(keys.headers("ann")) as found:
        yield found


@pytest.fixture
async def here(fleet: Fleet, http: httpx2.AsyncClient) -> Peer:
    """Return a client with a session, at the replica that holds it."""
    return await begin(http, fleet.urls[0])


@pytest.fixture
def there(fleet: Fleet, here: Peer) -> Peer:
    """Return the same client at the other replica."""
    return at(here, fleet.urls[1])


async def test_S5_thousand_sessions_behind_a_round_robin_see_one_server(
    fleet: Fleet, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    statuses: list[int] = []
    numbers = iter(range(SESSIONS))
    with balancer(fleet, tmp_path / "balancer") as url:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(live(http, url, numbers, statuses))

    assert len(statuses) == 4 * SESSIONS
    assert set(statuses) == {200}
    # All but the openings came to the wrong replica half of the time
    assert fleet.metric(FORWARDED.format("answered")) > 2 * SESSIONS
    assert [fleet.metric(FORWARDED.format(fault)) for fault in FAULTS] == [0] * len(FAULTS)


async def live(http: httpx2.AsyncClient, url: str, numbers: Iterator[int], statuses: list[int]) -> None:
    """Live the life of some sessions: every message goes where the balancer wants."""
    for number in numbers:
        peer = await begin(http, url)
        async with listening(peer) as stream:
            told = await peer.call("announce", {"text": str(number)}, accept=JSON)
            noticed = await stream.next()
            shown = await peer.call("stock_context", {"steps": number % 3}, accept=EVENTS, id=number)
            ended = await peer.end()
            assert await stream.rest() == []
        if number % 10 == 0:
            # Two times running: whichever replica is asked
            assert [(await peer.call("stock_nothing")).outcome for _ in range(2)] == [UNKNOWN] * 2
        assert told.text == "announced"
        assert noticed is not None
        assert noticed["params"]["data"] == str(number)
        assert (shown.answer.type, shown.answer.message["id"]) == (EVENTS, number)
        assert shown.text == f"reported {number % 3}"
        statuses += [stream.response.status_code, *(reply.answer.status for reply in (told, shown, ended))]


async def test_T4_progress_of_a_forwarded_call_arrives_one_by_one(there: Peer) -> None:
    arrived = []
    async with streaming(there, "countdown", {"seconds": SECONDS, "steps": STEPS}, accept=EVENTS) as events:
        while (message := await events.next()) is not None and "method" in message:
            arrived.append(time.monotonic())
        headers = events.response.headers

    assert len(arrived) == STEPS
    assert (arrived[-1] - arrived[0]) / (PACE * (STEPS - 1)) >= SMOOTH
    assert message is not None
    assert f"counted {STEPS} steps" in str(message["result"])
    assert headers["content-type"].partition(";")[0] == EVENTS
    assert headers["connection"] == "keep-alive"
    assert "no-cache" in headers["cache-control"]
    assert "content-length" not in headers


async def test_T4_notifications_on_a_forwarded_stream_arrive_when_they_are_sent(here: Peer, there: Peer) -> None:
    async with listening(there) as stream:
        for text in ("one", "two", "three"):
            # Each is read before the next one is sent: none waits for another
            await here.call("announce", {"text": text})
            message = await stream.next()
            assert message is not None
            assert message["params"]["data"] == text


@pytest.mark.parametrize("calls", ["here", "there"])
@pytest.mark.parametrize("answers", ["here", "there"])
async def test_S5_question_of_a_tool_is_answered_through_any_replica(
    calls: str, answers: str, here: Peer, there: Peer
) -> None:
    peers = {"here": here, "there": there}
    async with streaming(peers[calls], "test_elicitation", {"message": "Who?"}) as events:
        question = await events.next()
        assert question is not None
        assert question["method"] == "elicitation/create"

        status = await answer(peers[answers], question, {"username": "ann", "email": "a@example.com"})

        [result] = await events.rest()

    assert status == 202
    assert "'username': 'ann'" in result["result"]["content"][0]["text"]


async def test_S5_session_that_was_ended_elsewhere_is_gone_everywhere(here: Peer, there: Peer) -> None:
    ended = await there.end()

    assert ended.answer.status == 200
    assert [(await peer.call("stock_nothing")).outcome for peer in (there, here)] == [UNKNOWN] * 2
    assert [(await peer.end()).outcome for peer in (there, here)] == [UNKNOWN] * 2


async def test_T2_each_accept_is_honoured_through_another_replica(there: Peer) -> None:
    found = [(await there.call("stock_context", {"steps": 2}, accept=wish)).answer for wish in (JSON, EVENTS, BOTH)]

    assert [one.type for one in found[:2]] == [JSON, EVENTS]
    assert {one.messages[-1]["result"]["content"][0]["text"] for one in found} == {"reported 2"}


async def test_A8_session_of_somebody_else_looks_like_none_through_another_replica(there: Peer, keys: Keys) -> None:
    async with calling(keys.headers("eve")) as stranger:
        foreign = Peer(stranger, there.conversation)
        session = {**there.conversation.session, "Mcp-Session-Id": "0" * 32}
        nobody = Peer(stranger, Conversation(there.conversation.url, HANDSHAKE, session))

        called = [await peer.call("stock_nothing", id=1) for peer in (foreign, nobody)]
        ended = [await peer.end() for peer in (foreign, nobody)]

    for one, other in (called, ended):
        assert one.outcome == UNKNOWN
        assert told(one) == told(other)
    assert (await there.call("stock_nothing")).outcome == OK


def told(reply: Reply) -> tuple[int, dict[str, str], str]:
    """Return what must be equal when two answers must not be told apart."""
    headers = {name: value for name, value in reply.answer.headers.items() if name not in ("date", "x-request-id")}
    return reply.answer.status, headers, reply.answer.body.replace(reply.answer.headers["x-request-id"], "")


async def test_A3_key_that_was_taken_back_is_refused_where_its_session_is_forwarded(fleet: Fleet, keys: Keys) -> None:
    async with calling(keys.headers("bob")) as http:
        there = at(await begin(http, fleet.urls[0]), fleet.urls[1])
        assert (await there.call("stock_nothing")).outcome == OK

        await asyncio.to_thread(revoke, fleet, keys, "bob")

        assert (await there.call("stock_nothing")).answer.status == 401


async def test_A9_tool_is_told_the_same_caller_wherever_the_request_came_in(here: Peer, there: Peer) -> None:
    found = [(await peer.call("introduce")).result["structuredContent"] for peer in (here, there)]

    assert found == [{"id": "ann", "tenant": "default", "scopes": ["*"]}] * 2


async def test_A7_probe_may_do_no_more_through_another_replica(fleet: Fleet, keys: Keys) -> None:
    async with calling(keys.headers("probe")) as http:
        there = at(await begin(http, fleet.urls[0]), fleet.urls[1])

        found = [(await there.call(tool)).outcome for tool in ("ping", "stock_nothing")]

    assert found == [OK, "403 insufficient_scope"]


async def test_L3_forwarded_call_is_counted_once(extended: Project, keys: Keys, tmp_path: Path) -> None:
    narrow = {"CALLER_LIMIT": "0.01/4", "TOOL_LIMITS": "stock_nothing=0.01/2,stock_context=100/100"}
    narrow |= {"MAX_CALLS_PER_CALLER": "1", "MAX_STREAMS_PER_CALLER": "1"}
    with pair(extended, keys, tmp_path, **narrow) as (_, fleet):
        async with calling(keys.headers("ann")) as http:
            there = at(await begin(http, fleet.urls[0]), fleet.urls[1])
            tool = [(await there.call("stock_nothing")).outcome for _ in range(3)]
            caller = [(await there.call("stock_context", {"steps": 1})).outcome for _ in range(2)]
        async with calling(keys.headers("zoe")) as http, gate() as held:
            here = await begin(http, fleet.urls[0])
            places = await taken(here, at(here, fleet.urls[1]), held)

    assert tool == [OK, OK, "200 limit_tool"]
    assert caller == [OK, "429 limit_caller"]
    assert places == ["429 too_many_calls_of_caller", OK]


async def taken(here: Peer, there: Peer, held: Gate) -> list[str]:
    """Return what a second call is told while the first one was forwarded: where it came in, where it runs."""
    call = asyncio.create_task(there.call("hold", {"port": held.port}))
    await held.holds(1)
    found = [(await peer.call("stock_context", {"steps": 1})).outcome for peer in (there, here)]
    await held.open()
    assert (await call).outcome == OK
    return found


async def test_L2_stream_whose_client_left_is_given_back_on_both_replicas(
    here: Peer, there: Peer, fleet: Fleet
) -> None:
    async with listening(there) as stream:
        assert stream.response.status_code == 200
        # One stream of its own is all that a session may have
        assert (await first_of(here)).answer.status == 409

    await becomes(OK, lambda: first_of(here))


async def first_of(peer: Peer) -> Reply:
    """Open the session's stream and leave at once."""
    async with peer.listening() as reply:
        return reply


async def test_O3_lines_of_both_replicas_name_one_request(
    shared: tuple[Site, Fleet], fleet: Fleet, keys: Keys, here: Peer
) -> None:
    async with calling(keys.headers("ann") | {"X-Request-ID": "one-request"}) as http:
        peer = Peer(http, here.conversation)
        reply = await at(peer, fleet.urls[1]).call("stock_nothing", id=77)

    lines = [
        fleet.servers[0].wait_for("tool_called", request_id="one-request"),
        fleet.servers[1].wait_for("request_forwarded", request_id="one-request"),
    ]

    assert reply.answer.headers["x-request-id"] == "one-request"
    assert shared[0].owner(session_of(here)) == fleet.urls[0].removesuffix("/mcp")
    for line in lines:
        assert (line["caller_id"], line["tenant_id"], line["mcp_request_id"]) == ("ann", "default", 77)
        assert line["session_id"] == session_of(here)
    assert (lines[1]["level"], lines[1]["http_status"]) == ("info", 200)
    assert lines[1]["duration_ms"] > 0
