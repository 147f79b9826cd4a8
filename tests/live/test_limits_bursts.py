"""A burst is admitted up to the policy's number, to the call, in one process and across replicas (L1, L3, L4, L8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import pytest

from tests.live.curl import ERAS, HANDSHAKE, STATELESS, Era
from tests.live.fleet import Fleet, Keys, one_process, two_replicas
from tests.live.peers import OK, Crowd, Peer, Reply, burst, tally, until
from tests.live.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-bursts")]

BURST: Final = 14
"""More than any policy here admits; the rates beside the bursts are too slow to admit another one."""
DAY: Final = 86_400
CALLERS: Final = {HANDSHAKE: ("ann", "bob"), STATELESS: ("eve", "zoe")}
"""Who uses up limits in each era, and who is the neighbour."""

Start = Callable[..., AbstractContextManager[Fleet]]
eras = pytest.mark.parametrize("era", ERAS, ids=str)


@pytest.fixture(scope="module", params=["one process", "two replicas"])
def start(
    request: pytest.FixtureRequest, extended: Project, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """Return what starts a server in one process or as two replicas."""

    def started(**given: str) -> AbstractContextManager[Fleet]:
        if request.param == "one process":
            return one_process(extended, keys, **given)
        return two_replicas(extended, keys, tmp_path_factory.mktemp("fleet"), **given)

    return started


@pytest.fixture(scope="module")
def metered(start: Start) -> Iterator[Fleet]:
    """Return a fleet with limits on tools."""
    limits = "stock_nothing=0.05/5,weigh=1000/1000"
    with start(TOOL_LIMIT="0.05/3", TOOL_LIMITS=limits, TOOL_BUDGETS="weigh=13") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def throttled(start: Start) -> Iterator[Fleet]:
    """Return a fleet with a limit on callers, and a tighter one on a tool."""
    with start(CALLER_LIMIT="0.05/5", TOOL_LIMITS="stock_nothing=0.05/2") as fleet:
        yield fleet


async def test_L1_sessions_of_an_address_are_admitted_exactly_and_the_rest_never_reaches_the_sdk(
    start: Start, crowd: Crowd
) -> None:
    with start(SESSION_LIMIT="0.05/5") as fleet:
        ann, bob = [await crowd.arrive(fleet, name, HANDSHAKE) for name in ("ann", "bob")]
        modern = await crowd.arrive(fleet, "ann", STATELESS)

        # Whose key it is makes no difference: the limit is that of the address.
        replies = await burst([*ann, *bob], BURST, Peer.initialize)

        assert tally(replies) == {OK: 5, "429 limit_session": BURST - 5}
        for reply in (reply for reply in replies if reply.outcome != OK):
            assert "mcp-session-id" not in reply.answer.headers
            assert reply.error["code"] == -32010
            assert 1190 <= int(reply.answer.headers["retry-after"]) <= 1200
        assert fleet.refusals("session") == BURST - 5
        # Nothing else opens a session, so nothing else is refused.
        assert tally(await burst(modern, 3, lambda peer: peer.send("tools/list"))) == {OK: 3}
        assert fleet.count("message_handled") == 5 + 3
        assert fleet.count("session_opened") == 5


@eras
async def test_L3_burst_admits_exactly_the_policy_of_the_tool(era: Era, metered: Fleet, crowd: Crowd) -> None:
    peers, neighbours = [await crowd.join(metered, name, era) for name in CALLERS[era]]

    named = await burst(peers, BURST, lambda peer: peer.call("stock_nothing"))
    unnamed = await burst(peers, BURST, lambda peer: peer.call("test_simple_text"))

    # Each session is alive, each tool and each caller has its own.
    assert tally(named) == {OK: 5, "200 limit_tool": BURST - 5}
    assert tally(unnamed) == {OK: 3, "200 limit_tool": BURST - 3}
    assert tally(await burst(neighbours, BURST, lambda peer: peer.call("stock_nothing"))) == tally(named)
    assert tally(await burst(peers, BURST, lambda peer: peer.send("tools/list"))) == {OK: BURST}


@eras
async def test_L4_day_admits_exactly_what_the_budget_pays_for(era: Era, metered: Fleet, crowd: Crowd) -> None:
    peers, neighbours = [await crowd.join(metered, name, era) for name in CALLERS[era]]
    await out_of_midnight()

    replies = await burst(peers, BURST, lambda peer: peer.call("weigh"))
    left = DAY - time.time() % DAY

    # 13 units at 3 a call; the last one is worth no call.
    assert tally(replies) == {OK: 4, "200 limit_budget": BURST - 4}
    for reply in (reply for reply in replies if reply.outcome != OK):
        assert left - 0.1 <= reply.delay <= left + 10
        assert "renewed at midnight UTC" in reply.text
    assert tally(await burst(neighbours, 4, lambda peer: peer.call("weigh"))) == {OK: 4}


@eras
async def test_L4_what_a_tool_declares_holds_without_any_setting(era: Era, metered: Fleet, crowd: Crowd) -> None:
    peers = await crowd.join(metered, CALLERS[era][0], era)
    await out_of_midnight()

    found = [(await peers[number % len(peers)].call("run_report")).outcome for number in range(4)]

    # Two at once, 3 units a day at 2 a call: what the budget refuses does not use up the rate.
    assert found == [OK, *["200 limit_budget"] * 3]


async def out_of_midnight() -> None:
    """Wait if the day is about to end."""
    left = DAY - time.time() % DAY
    if left < 10:
        await until(time.monotonic() + left + 0.1)


@eras
async def test_L3_burst_admits_exactly_the_policy_of_the_caller(era: Era, throttled: Fleet, crowd: Crowd) -> None:
    name, neighbour = CALLERS[era]
    peers, neighbours = await crowd.join(throttled, name, era), await crowd.join(throttled, neighbour, era)

    replies = await burst(peers, BURST, lambda peer: peer.send("tools/list"))

    assert tally(replies) == {OK: 5, "429 limit_caller": BURST - 5}
    assert throttled.count("message_handled", method="tools/list", caller_id=name) == 5
    # A call that its tool refused was a request all the same.
    spent = await burst(neighbours, BURST, lambda peer: peer.call("stock_nothing"))
    assert tally(spent) == {OK: 2, "200 limit_tool": 3, "429 limit_caller": BURST - 5}


async def test_L3_all_callers_of_both_eras_share_the_global_limit_exactly(start: Start, crowd: Crowd) -> None:
    with start(GLOBAL_LIMIT="0.05/5") as fleet:
        ann, eve = await crowd.join(fleet, "ann", HANDSHAKE), await crowd.join(fleet, "eve", STATELESS)

        replies = await burst([*ann, *eve], BURST, lambda peer: peer.call("stock_nothing"))

        assert tally(replies) == {OK: 5, "200 limit_global": BURST - 5}
        assert fleet.refusals("global") == BURST - 5
        assert tally(await burst([*ann, *eve], BURST, lambda peer: peer.send("tools/list"))) == {OK: BURST}


@eras
async def test_L10_what_asks_nothing_costs_nothing(era: Era, throttled: Fleet, crowd: Crowd) -> None:
    free = "ping" if era is HANDSHAKE else "server/discover"
    peers = await crowd.join(throttled, CALLERS[era][0], era)
    await burst(peers, BURST, lambda peer: peer.send("tools/list"))
    before = throttled.refusals("caller")

    # Over its limit, a caller may still ask whether the server is there.
    assert tally(await burst(peers, BURST, lambda peer: peer.send(free))) == {OK: BURST}
    assert throttled.refusals("caller") == before
    assert [reply.answer.status for reply in await answers_and_notifications(peers)] == [202] * (2 * len(peers))
    assert tally(await burst(peers, 1, lambda peer: peer.send("tools/list"))) == {"429 limit_caller": 1}


async def answers_and_notifications(peers: list[Peer]) -> list[Reply]:
    """Send what a client answers or tells, which cannot be asked to come again."""
    return await burst(
        peers, 2 * len(peers), lambda peer: peer.send("notifications/roots/list_changed", notification=True)
    )
