"""Sessions and streams are capped per caller and in all, and every place comes back (L2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from tests.live.curl import ERAS, HANDSHAKE, Era
from tests.live.fleet import Fleet, Keys, one_process
from tests.live.peers import OK, Crowd, Peer, Reply, becomes, burst, tally
from tests.live.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-sessions")]

RUSH = 7
HELLO: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a"}}
MALFORMED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no version": {"capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
    "version is a list": HELLO | {"protocolVersion": []},
    "client has no version": HELLO,
    "capabilities are a text": HELLO | {"capabilities": "all"},
}
eras = pytest.mark.parametrize("era", ERAS, ids=str)


async def test_L2_open_sessions_of_a_caller_and_of_all_are_capped_exactly(
    extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_SESSIONS="5", MAX_SESSIONS_PER_CALLER="2") as fleet:
        ann, bob, eve = [(await crowd.arrive(fleet, name, HANDSHAKE))[0] for name in ("ann", "bob", "eve")]

        of_ann = await burst([ann], RUSH, Peer.initialize)
        of_bob = await burst([bob], RUSH, Peer.initialize)
        of_eve = await burst([eve], RUSH, Peer.initialize)

        assert tally(of_ann) == tally(of_bob) == {OK: 2, "429 too_many_sessions_of_caller": RUSH - 2}
        assert tally(of_eve) == {OK: 1, "503 too_many_sessions": RUSH - 1}
        assert fleet.refusals("sessions") == 3 * RUSH - 5
        assert fleet.count("session_opened") == fleet.count("message_handled", method="initialize") == 5
        hints = {reply.answer.headers["retry-after"] for reply in [*of_ann, *of_eve] if reply.outcome != OK}
        assert hints == {"30"}


async def test_L2_place_of_a_session_is_free_when_it_is_deleted_or_idle(
    extended: Project, keys: Keys, crowd: Crowd
) -> None:
    given = {"MAX_SESSIONS": "2", "MAX_SESSIONS_PER_CALLER": "1", "SESSION_IDLE_TIMEOUT": "1"}
    with one_process(extended, keys, **given) as fleet:
        ann, bob, eve = [(await crowd.arrive(fleet, name, HANDSHAKE))[0] for name in ("ann", "bob", "eve")]
        session = await ann.open()
        await bob.open()

        # Deleted: the place is her own's, and one of all
        assert (await session.end()).answer.status == 200
        assert (await eve.initialize()).outcome == OK
        assert (await ann.initialize()).outcome == "503 too_many_sessions"

        # Idle: nobody does anything
        for count in (1, 2):
            fleet.servers[0].wait_for("session_closed", reason="idle", count=count)
        assert tally([*await burst([ann], 2, Peer.initialize), *await burst([bob], 2, Peer.initialize)]) == {
            OK: 2,
            "429 too_many_sessions_of_caller": 2,
        }


@pytest.mark.parametrize("params", MALFORMED.values(), ids=MALFORMED)
async def test_L2_malformed_initialize_frees_its_slot(params: dict[str, Any], small: Fleet, crowd: Crowd) -> None:
    ann = (await crowd.arrive(small, "ann", HANDSHAKE))[0]

    broken = await burst([ann], RUSH, lambda peer: peer.send("initialize", params))
    # Those that came together had to share one place.
    one_by_one = [(await ann.send("initialize", params)).outcome for _ in range(RUSH)]

    assert not [reply for reply in broken if reply.outcome == OK]
    assert one_by_one == ["200 -32602"] * RUSH
    session = await ann.open()
    assert (await session.end()).answer.status == 200


@pytest.fixture(scope="module")
def small(extended: Project, keys: Keys) -> Iterator[Fleet]:
    """Return a server that holds one session at a time."""
    with one_process(extended, keys, MAX_SESSIONS="1") as fleet:
        yield fleet


@eras
async def test_L2_open_streams_of_a_caller_and_of_all_are_capped_exactly(
    era: Era, extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_STREAMS="5", MAX_STREAMS_PER_CALLER="2") as fleet:
        async with AsyncExitStack() as first, AsyncExitStack() as others:
            found = [await opened(first, fleet, crowd, "ann", era)]
            found += [await opened(others, fleet, crowd, name, era) for name in ("bob", "eve")]

            assert [tally(replies) for replies in found] == [
                {OK: 2, "429 too_many_streams_of_caller": RUSH - 2},
                {OK: 2, "429 too_many_streams_of_caller": RUSH - 2},
                {OK: 1, "503 too_many_streams": RUSH - 1},
            ]
            assert fleet.refusals("streams") == 3 * RUSH - 5
            # What is no stream needs no place
            ann = (await crowd.join(fleet, "ann", era))[0]
            assert tally(await burst([ann], RUSH, lambda peer: peer.call("test_simple_text"))) == {OK: RUSH}

            # When one caller leaves, just her places are free
            await first.aclose()
            for name in ("ann", "eve"):
                peer = (await crowd.join(fleet, name, era))[0]
                await becomes(OK, partial(listened, others, peer))
            assert (await listened(others, ann)).outcome == "503 too_many_streams"


async def opened(stack: AsyncExitStack, fleet: Fleet, crowd: Crowd, name: str, era: Era) -> list[Reply]:
    """Open streams that stay open; a session has one at most."""
    return [await listened(stack, (await crowd.join(fleet, name, era))[0]) for _ in range(RUSH)]


async def listened(stack: AsyncExitStack, peer: Peer) -> Reply:
    return await stack.enter_async_context(peer.listening())


async def test_L2_stream_of_a_deleted_session_gives_its_place_back(extended: Project, keys: Keys, crowd: Crowd) -> None:
    with one_process(extended, keys, MAX_STREAMS="1") as fleet:
        async with AsyncExitStack() as stack:
            first, second = [(await crowd.join(fleet, "ann", HANDSHAKE))[0] for _ in range(2)]
            assert (await listened(stack, first)).outcome == OK
            assert (await listened(stack, second)).outcome == "503 too_many_streams"

            assert (await first.end()).answer.status == 200

            await becomes(OK, lambda: listened(stack, second))


async def test_A7_probe_needs_neither_session_place_nor_room_nor_requests(
    extended: Project, keys: Keys, crowd: Crowd
) -> None:
    given = {"MAX_SESSIONS": "1", "SESSION_LIMIT": "0.05/1", "CALLER_LIMIT": "0.05/1", "TOOL_LIMIT": "0.05/1"}
    more = {"GLOBAL_LIMIT": "0.05/1", "TOOL_BUDGETS": "ping=1", "SUSPENSION_REFUSALS": "1"}
    with one_process(extended, keys, **given, **more) as fleet:
        probes = [(await crowd.arrive(fleet, "probe", era))[0] for era in ERAS]
        for number in range(RUSH):
            monitor = [await probe.open() for probe in probes]
            for peer in monitor:
                found = [await peer.send("tools/list"), await peer.call("ping", id=10_000 + number)]
                assert tally(found) == {OK: 2}
        assert fleet.metric("mcp_suspensions_total") == 0

        # It used up nothing of what others have
        ann = (await crowd.join(fleet, "ann", HANDSHAKE))[0]
        assert (await ann.call("ping")).outcome == OK
        assert (await ann.call("ping")).outcome == "429 limit_suspended"
        assert fleet.refusals("caller") == 1
