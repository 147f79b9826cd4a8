"""Who does not stop is kept out for longer and longer, alone, and an operator can see and end it (L6)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.live.curl import ERAS, HANDSHAKE, STATELESS, Era
from tests.live.fleet import Fleet, Keys, one_process, two_replicas
from tests.live.peers import OK, Crowd, Peer, Reply, burst, tally, until
from tests.live.project import Project
from tests.live.truth import NEARLY, told_the_truth

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-suspensions")]

REFUSALS = 5
POLICY = {"SUSPENSION_REFUSALS": str(REFUSALS), "TOOL_LIMITS": "stock_nothing=0.05/1"}
"""The tool admits one call of a caller, and no other one within these tests."""
SUSPENDED = "429 limit_suspended"
WORDS = "You are suspended, because refused calls were repeated too often: wait "
eras = pytest.mark.parametrize("era", ERAS, ids=str)


async def loop(peer: Peer) -> Reply:
    """Repeat a refused call until that has its consequence; return the first refusal after it."""
    for _ in range(REFUSALS + 1):
        if (await peer.call("stock_nothing")).outcome == "200 limit_suspended":
            return await peer.send("tools/list")
    raise AssertionError("never suspended")


def lengths(fleet: Fleet) -> list[float]:
    """Return the seconds of each suspension, as logged."""
    fleet.count("caller_suspended")
    return [line["seconds"] for server in fleet.servers for line in server.lines if line["event"] == "caller_suspended"]


@eras
async def test_L6_looping_caller_is_suspended_and_its_neighbour_is_not(
    era: Era, extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, **POLICY, SUSPENSION_FIRST="30") as fleet:
        ann, bob = [(await crowd.join(fleet, name, era))[0] for name in ("ann", "bob")]

        # One call is admitted; the fifth refusal is one too many.
        found = [(await ann.call("stock_nothing")).outcome for _ in range(1 + REFUSALS)]
        assert found == [OK, *["200 limit_tool"] * (REFUSALS - 1), "200 limit_suspended"]

        # Then nothing of hers passes
        refused = await burst([ann], 6, lambda peer: peer.send("tools/list"))
        refused += await burst([ann], 6, lambda peer: peer.call("test_simple_text"))
        assert tally(refused) == {SUSPENDED: 12}
        assert all(29 < reply.delay <= 30 and reply.text.startswith(WORDS) for reply in refused)
        assert {reply.answer.headers["retry-after"] for reply in refused} == {"30"}
        # But what asks nothing, which is how a client keeps its session
        free = "ping" if era is HANDSHAKE else "server/discover"
        assert tally(await burst([ann], 6, lambda peer: peer.send(free))) == {OK: 6}
        # And all of his
        assert tally(await burst([bob], 6, lambda peer: peer.call("test_simple_text"))) == {OK: 6}

        line = fleet.servers[0].wait_for("caller_suspended")
        assert (line["level"], line["caller_id"], line["seconds"]) == ("warning", "ann", 30)
        assert fleet.metric("mcp_suspensions_total") == fleet.count("caller_suspended") == 1
        assert (fleet.refusals("tool"), fleet.refusals("suspended")) == (REFUSALS, 12)


@eras
async def test_L5_L6_suspension_ends_when_it_was_told_to(era: Era, extended: Project, keys: Keys, crowd: Crowd) -> None:
    with one_process(extended, keys, **POLICY, SUSPENSION_FIRST="0.5") as fleet:
        ann = (await crowd.join(fleet, "ann", era))[0]

        early, late = await told_the_truth(lambda: ann.send("tools/list"), lambda: loop(ann))

    assert (early.outcome, late.outcome) == (SUSPENDED, OK)
    assert 0 < early.delay <= NEARLY


async def test_L6_each_suspension_is_twice_as_long_up_to_the_longest(
    extended: Project, keys: Keys, crowd: Crowd
) -> None:
    with one_process(extended, keys, **POLICY, SUSPENSION_FIRST="0.3", SUSPENSION_LONGEST="0.8") as fleet:
        ann = (await crowd.join(fleet, "ann", STATELESS))[0]

        for _ in range(4):
            refusal = await loop(ann)
            await until(refusal.received + refusal.delay)

        assert lengths(fleet) == [0.3, 0.6, 0.8, 0.8]


async def test_L6_good_conduct_makes_the_next_one_shorter_again(extended: Project, keys: Keys, crowd: Crowd) -> None:
    decay = 1.5
    with one_process(extended, keys, **POLICY, SUSPENSION_FIRST="0.3", SUSPENSION_DECAY=str(decay)) as fleet:
        ann = (await crowd.join(fleet, "ann", STATELESS))[0]

        for rest in (0, decay, 0):
            refusal = await loop(ann)
            await until(refusal.received + refusal.delay + rest)

        # One suspension was forgotten before the third.
        assert lengths(fleet) == [0.3, 0.6, 0.6]


async def test_L6_refusals_that_come_slowly_suspend_nobody(extended: Project, keys: Keys, crowd: Crowd) -> None:
    with one_process(extended, keys, **POLICY, SUSPENSION_WINDOW="0.6") as fleet:
        ann = (await crowd.join(fleet, "ann", STATELESS))[0]
        assert (await ann.call("stock_nothing")).outcome == OK

        # Four are within one window at most, and no pause is long enough to forget the ones before.
        for count in (3, 1, 3):
            found = await burst([ann], count, lambda peer: peer.call("stock_nothing"))
            assert tally(found) == {"200 limit_tool": count}
            await until(found[-1].received + 0.4)

        assert (await ann.call("test_simple_text")).outcome == OK


async def test_L6_what_others_used_up_is_held_against_nobody(extended: Project, keys: Keys, crowd: Crowd) -> None:
    given = {"SUSPENSION_REFUSALS": "2", "GLOBAL_LIMIT": "0.05/1", "SESSION_LIMIT": "0.05/1", "MAX_STREAMS": "1"}
    with one_process(extended, keys, **given) as fleet:
        ann = (await crowd.join(fleet, "ann", HANDSHAKE))[0]
        bob = (await crowd.arrive(fleet, "bob", STATELESS))[0]

        assert tally(await burst([ann, bob], 8, lambda peer: peer.call("stock_nothing"))) == {
            OK: 1,
            "200 limit_global": 7,
        }
        assert tally(await burst([ann, bob], 8, Peer.initialize)) == {"429 limit_session": 8}
        async with ann.listening():
            for _ in range(4):
                async with bob.listening() as refusal:
                    assert refusal.outcome == "503 too_many_streams"

        assert tally(await burst([ann, bob], 8, lambda peer: peer.send("tools/list"))) == {OK: 8}
        assert fleet.count("caller_suspended") == 0


# --- what an operator does ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(extended: Project, keys: Keys, tmp_path: Path) -> Iterator[Fleet]:
    """Return two replicas that suspend for a minute."""
    with two_replicas(extended, keys, tmp_path, **POLICY, SUSPENSION_FIRST="60") as fleet:
        yield fleet


async def test_L6_operator_sees_who_is_suspended_and_lifts_it_in_all_replicas_at_once(
    pair: Fleet, crowd: Crowd
) -> None:
    ann, bob = await crowd.join(pair, "ann", STATELESS), await crowd.join(pair, "bob", STATELESS)
    assert pair.ops("suspensions", "list") == (0, "", "nobody is suspended\n")

    # What one replica suspends, the other keeps out
    await loop(ann[0])
    assert tally(await burst(ann, 4, lambda peer: peer.send("tools/list"))) == {SUSPENDED: 4}

    code, table, _ = pair.ops("suspensions", "list")
    assert code == 0
    assert table.startswith("ann  tenant=default  way=key  ends=20")
    assert table.endswith("  suspensions=1\n")
    assert len(table.splitlines()) == 1
    ends = datetime.fromisoformat(table.partition("ends=")[2].split()[0])
    assert 0 <= ends.timestamp() - time.time() <= 60
    entry: dict[str, Any] = json.loads(pair.ops("suspensions", "list", "--json")[1])[0]
    assert (entry["caller"], entry["tenant"], entry["way"], entry["level"]) == ("ann", "default", "key", 1)

    # Who is not suspended cannot be lifted
    refused = pair.ops("suspensions", "lift", "ann", "--tenant", "other")
    assert refused == (1, "", "ann is not suspended; `ops suspensions list` shows who is\n")

    code, out, error = pair.ops("suspensions", "lift", "ann")
    assert (code, out) == (0, "")
    assert error.startswith("lifted: ann  tenant=default  way=key")
    assert tally(await burst(ann, 4, lambda peer: peer.send("tools/list"))) == {OK: 4}
    assert tally(await burst(bob, 4, lambda peer: peer.send("tools/list"))) == {OK: 4}
    # Her refusals are forgotten, too: it takes as many again, and the next one is a first one.
    await loop(ann[1])
    assert lengths(pair) == [60, 60]


@pytest.mark.parametrize("arguments", [["list"], ["lift", "ann"]], ids=" ".join)
def test_L6_suspensions_in_the_memory_of_a_process_are_out_of_reach(arguments: list[str], extended: Project) -> None:
    done = extended.run("ops", "suspensions", *arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "MCP_STATE_URL is memory://, which lives in the server's process: set it to the server's Redis\n"
    )
