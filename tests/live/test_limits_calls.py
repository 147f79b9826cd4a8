"""Running calls are capped, nobody waits for a place, and every place comes back (L2, L10)."""

from __future__ import annotations

import asyncio

import pytest

from tests.live.curl import ERAS, HANDSHAKE, STATELESS, Era
from tests.live.fleet import Keys, one_process
from tests.live.gate import Gate, gate, stays
from tests.live.peers import OK, Crowd, Peer, Reply, becomes, burst, tally
from tests.live.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-calls")]

RUSH = 7
AT_ONCE = 2.0
"""Seconds within which a refusal must come on a busy machine; what runs here runs until the test ends it."""
eras = pytest.mark.parametrize("era", ERAS, ids=str)


def prompt(replies: list[Reply]) -> bool:
    """Tell whether nobody waited."""
    return all(reply.received - reply.sent < AT_ONCE for reply in replies)


@eras
async def test_L2_running_calls_of_a_caller_and_of_all_are_capped_exactly(
    era: Era, extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_CALLS="5", MAX_CALLS_PER_CALLER="2") as fleet:
        ann, bob, eve = [(await crowd.join(fleet, name, era))[0] for name in ("ann", "bob", "eve")]
        async with gate() as held:
            # Given three callers who want more than there is
            of_ann, first_refused = await held.rush(RUSH, ann, admitted=2)
            of_bob, second_refused = await held.rush(RUSH, bob, admitted=2)
            of_eve, last_refused = await held.rush(RUSH, eve, admitted=1)

            # Then each has its share, the last one what is left, and the rest is told at once
            assert tally([*first_refused, *second_refused]) == {"429 too_many_calls_of_caller": 10}
            assert tally(last_refused) == {"503 too_many_calls": 6}
            assert prompt([*first_refused, *second_refused, *last_refused])
            assert {reply.answer.headers["retry-after"] for reply in [*first_refused, *last_refused]} == {"1"}
            assert fleet.refusals("calls") == 16
            # What is no call needs no place
            assert tally(await burst([ann], RUSH, lambda peer: peer.send("tools/list"))) == {OK: RUSH}

            # When they end, the same number is admitted again
            await held.open()
            assert tally(await asyncio.gather(*of_ann, *of_bob, *of_eve)) == {OK: 5}
            again, refused = await held.rush(RUSH, ann, admitted=2)
            assert (len(again), tally(refused)) == (2, {"429 too_many_calls_of_caller": 5})


@eras
async def test_L2_tool_runs_as_often_as_it_may_whoever_calls(
    era: Era, extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, TOOL_CONCURRENCY="hold=2,linger=1", TOOL_LIMITS="linger=0.05/3") as fleet:
        ann, bob = [(await crowd.join(fleet, name, era))[0] for name in ("ann", "bob")]
        async with gate() as held:
            _, refused = await held.rush(RUSH, ann, admitted=2)
            _, refused_too = await held.rush(2, bob, admitted=0)

            assert tally([*refused, *refused_too]) == {"200 limit_concurrency": RUSH}
            assert prompt(refused)
            assert {reply.meta["retryAfterMs"] for reply in refused} == {1000}
            assert refused[0].text == "hold is running as often as it may: wait 1 s, then retry once"
            assert "structuredContent" not in refused[0].result
            assert fleet.refusals("concurrency") == RUSH
            assert (await ann.call("test_simple_text")).outcome == OK

            await held.open()
            _, again = await held.rush(RUSH, bob, admitted=2)
            assert tally(again) == {"200 limit_concurrency": RUSH - 2}
        # A place is free again after a time-out, and after a refusal by a rate.
        found = [(await ann.call("linger")).outcome for _ in range(5)]
        assert found == ["200 timeout"] * 3 + ["200 limit_tool"] * 2


@eras
async def test_L2_one_place_is_enough_for_who_makes_one_call_after_the_other(
    era: Era, extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_CALLS="1", TOOL_CONCURRENCY="crash=1,decline=1,test_simple_text=1") as fleet:
        ann = (await crowd.join(fleet, "ann", era))[0]
        calls = [
            *[("crash", {"secret": "x"}), ("decline", {}), ("crash", {}), ("test_simple_text", {}), ("linger", {})],
            *[("no_such_tool", {}), ("test_tool_with_progress", {}), *[("test_simple_text", {})] * 40],
        ]

        found = [(await ann.call(name, arguments)).outcome for name, arguments in calls]

    status = 400 if era is STATELESS else 200
    assert found == [
        *["200 internal_error", "200 tool_failure", "200 invalid_arguments", OK, "200 timeout"],
        *[f"{status} -32602", OK, *[OK] * 40],
    ]


async def test_L2_stateless_client_that_leaves_gives_its_place_back(
    extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_CALLS_PER_CALLER="1") as fleet:
        ann = (await crowd.join(fleet, "ann", STATELESS))[0]
        async with gate() as held:
            (call,), _ = await held.rush(1, ann, admitted=1)
            assert (await ann.call("test_simple_text")).outcome == "429 too_many_calls_of_caller"

            call.cancel()

            await held.holds(0)
            await becomes(OK, lambda: ann.call("test_simple_text"))


async def test_L2_handshake_call_keeps_its_place_until_it_ends_also_when_its_client_left(
    extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_CALLS_PER_CALLER="1") as fleet:
        ann = (await crowd.join(fleet, "ann", HANDSHAKE))[0]
        async with gate() as held:
            await leave(ann, held)

            assert held.running == 1
            assert await stays("429 too_many_calls_of_caller", lambda: ann.call("test_simple_text"))
            await held.open()
            await becomes(OK, lambda: ann.call("test_simple_text"))


@pytest.mark.parametrize("end", ["deleted", "idle"])
async def test_L2_call_that_its_client_left_ends_with_its_session_and_gives_its_place_back(
    end: str, extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, MAX_CALLS_PER_CALLER="1", SESSION_IDLE_TIMEOUT="1") as fleet:
        ann = (await crowd.join(fleet, "ann", HANDSHAKE))[0]
        async with gate() as held:
            await leave(ann, held)
            if end == "deleted":
                assert (await ann.end()).answer.status == 200
            fleet.servers[0].wait_for("session_closed", reason="ended" if end == "deleted" else "idle")

            # The SDK cancels what runs in a session that ends.
            await held.holds(0)
            ann = await ann.open()
            await becomes(OK, lambda: ann.call("test_simple_text"))


async def leave(peer: Peer, held: Gate) -> None:
    """Begin a call, drop its connection, and return when the server has noticed."""
    call = asyncio.create_task(peer.call("hold", {"port": held.port}, id=7))
    await held.holds(1)
    assert (await peer.send("tools/list", id=7)).outcome == "400 duplicate_id"
    call.cancel()
    # Its id is free as soon as the request has ended, whatever became of the call.
    await becomes(OK, lambda: peer.send("tools/list", id=7))


async def test_A7_probe_needs_no_place(extended: Project, keys: Keys, crowd: Crowd) -> None:
    with one_process(extended, keys, MAX_CALLS="1", TOOL_CONCURRENCY="ping=1") as fleet:
        ann, probe = [(await crowd.join(fleet, name, STATELESS))[0] for name in ("ann", "probe")]
        slow = {"steps": 2, "interval": 0.2}
        async with gate() as held:
            await held.rush(1, ann, admitted=1)

            assert tally(await burst([probe], 8, lambda peer: peer.call("ping", slow))) == {OK: 8}
            assert (await ann.call("ping")).outcome == "503 too_many_calls"
