"""Redis gone: no call hangs, each limit does what its policy says, and all is well when Redis is back (L9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from tests.live.curl import ERAS, HANDSHAKE, STATELESS
from tests.live.fleet import Fleet, Keys, replicas
from tests.live.peers import OK, Crowd, Peer, Reply, becomes, burst, tally
from tests.live.project import DEADLINE, Project, ServerProcess
from tests.support.redis import Redis

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-outages")]

ALLOW = {"REVOCATION_WHEN_STORE_DOWN": "allow", "STATE_TIMEOUT": "0.05"}
"""With `deny` every request is answered 503 before any limit is asked."""
BURST = 14
LOAD = 6
LONGEST = 1.0
"""Seconds for any answer, on a machine that is busy with the tests themselves; a hang is longer."""
ROUND = 30
"""Answers after which whatever was to be noticed was met by some request."""


class Load:
    """Peers who call without a pause, all at once."""

    def __init__(self, peers: list[Peer]) -> None:
        self._answered: asyncio.Queue[Reply] = asyncio.Queue()
        self._calls = [asyncio.create_task(self._call(peer)) for peer in peers]
        self.replies: list[Reply] = []

    async def _call(self, peer: Peer) -> None:
        while True:
            self._answered.put_nowait(await peer.call("stock_nothing"))

    async def round(self) -> None:
        """Wait for some more answers."""
        for _ in range(self._answered.qsize() + ROUND):
            self.replies.append(await self._answered.get())

    async def end(self) -> None:
        """Stop; nothing but this ended any of them."""
        for call in self._calls:
            call.cancel()
        ended = await asyncio.gather(*self._calls, return_exceptions=True)
        assert {type(error) for error in ended} == {asyncio.CancelledError}
        self.replies += [self._answered.get_nowait() for _ in range(self._answered.qsize())]


async def metric(fleet: Fleet, name: str) -> float:
    return await asyncio.to_thread(fleet.metric, name)


async def becomes_metric(fleet: Fleet, name: str, value: float) -> None:
    """Wait until the metric shows this value."""
    end = time.monotonic() + DEADLINE
    while (shown := await metric(fleet, name)) != value:
        assert time.monotonic() < end, shown
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("harm", ["killed", "frozen"])
async def test_L9_no_call_hangs_while_redis_goes_and_comes_back_under_load(
    harm: str, extended: Project, keys: Keys, tmp_path: Path, crowd: Crowd
) -> None:
    with replicas(extended, keys, 1, tmp_path, **ALLOW, TOOL_LIMITS="test_simple_text=0.05/3") as fleet:
        redis = redis_of(fleet)
        peers = [(await crowd.join(fleet, name, era))[0] for name in ("ann", "bob", "eve") for era in ERAS]
        assert len(peers) == LOAD
        load = Load(peers)
        await load.round()
        assert await metric(fleet, "mcp_store_up") == 1

        redis.kill() if harm == "killed" else redis.freeze()
        await becomes_metric(fleet, "mcp_store_up", 0)
        await load.round()

        redis.start() if harm == "killed" else redis.thaw()
        await becomes_metric(fleet, "mcp_store_up", 1)
        await load.round()
        await load.end()

        assert tally(load.replies) == {OK: len(load.replies)}
        assert max(reply.received - reply.sent for reply in load.replies) < LONGEST
        # One line each, however many calls met it
        assert (fleet.count("store_silent", level="error"), fleet.count("store_answers", level="info")) == (1, 1)
        # It counts in Redis again, also where a restart forgot the scripts
        found = await burst(peers[:1], BURST, lambda peer: peer.call("test_simple_text"))
        assert tally(found) == {OK: 3, "200 limit_tool": BURST - 3}
        assert len([name for name in redis.names() if name.endswith(":test_simple_text")]) == 1


def redis_of(fleet: Fleet) -> Redis:
    assert fleet.redis is not None
    return fleet.redis


NARROW = {"TOOL_LIMITS": "stock_nothing=0.05/3,weigh=1000/1000", "TOOL_BUDGETS": "weigh=7", "SESSION_LIMIT": "0.05/9"}
"""Two calls of `weigh` a day; each era's caller has its own, but the sessions are all of one address."""
UNDECIDABLE = "limit_undecidable"
TOLD, REFUSED = {f"200 {UNDECIDABLE}": 14}, {f"503 {UNDECIDABLE}": 14}
POLICIES: dict[str, list[dict[str, int]]] = {
    # In two replicas each admits what one would.
    "local": [{OK: 14}, {OK: 6, "200 limit_tool": 8}, {OK: 4, "200 limit_budget": 10}, {OK: 14}],
    "open": [{OK: 14}, {OK: 14}, {OK: 14}, {OK: 14}],
    "closed": [REFUSED] * 4,
    "open,budget=closed": [{OK: 14}, {OK: 14}, TOLD, {OK: 14}],
    "closed,caller=open": [{OK: 14}, TOLD, TOLD, REFUSED],
    "local,budget=open,session=closed": [{OK: 14}, {OK: 3, "200 limit_tool": 11}, {OK: 14}, REFUSED],
}
"""What comes of lists, of calls of a limited tool, of calls with a budget, and of openings."""


@pytest.mark.parametrize("policy", POLICIES)
async def test_L9_each_limit_does_what_its_policy_says_while_redis_is_down(
    policy: str, extended: Project, keys: Keys, tmp_path: Path, crowd: Crowd
) -> None:
    count = 2 if policy == "local" else 1
    with replicas(extended, keys, count, tmp_path, **ALLOW, **NARROW, LIMITS_WHEN_STORE_DOWN=policy) as fleet:
        callers = [await crowd.join(fleet, name, era) for name, era in (("ann", HANDSHAKE), ("eve", STATELESS))]
        redis_of(fleet).kill()

        for peers in callers:
            found = [
                await burst(peers, BURST, lambda peer: peer.send("tools/list")),
                await burst(peers, BURST, lambda peer: peer.call("stock_nothing")),
                await burst(peers, BURST, lambda peer: peer.call("weigh")),
            ]

            assert [tally(replies) for replies in found] == POLICIES[policy][:3]
            undecided = [reply for replies in found for reply in replies if reply.outcome.endswith(UNDECIDABLE)]
            assert all(told_a_guess(reply) for reply in undecided)
        assert tally(await burst(callers[0], BURST, Peer.initialize)) == POLICIES[policy][3]


def told_a_guess(reply: Reply) -> bool:
    """Tell whether the reply says when to come back, and that nobody knows."""
    header = "1" if reply.answer.status == 503 else None
    told = (reply.meta["retryAfterMs"], reply.meta["estimate"], reply.answer.headers.get("retry-after"))
    return told == (1000, True, header) and reply.text == "Limits cannot be checked now: wait 1 s, then retry once"


async def test_L9_server_starts_without_redis_and_takes_it_up_when_it_is_there(
    extended: Project, keys: Keys, tmp_path: Path, crowd: Crowd
) -> None:
    closed = ALLOW | {"LIMITS_WHEN_STORE_DOWN": "closed", "CALLER_LIMIT": "0.05/3"}
    with replicas(extended, keys, 0, tmp_path, **closed) as fleet:
        redis_of(fleet).kill()
        with ServerProcess(extended, given=fleet.variables) as late:
            later = Fleet(extended, [late], keys, fleet.variables, fleet.redis)
            ann = (await crowd.arrive(later, "ann", STATELESS))[0]

            assert tally(await burst([ann], BURST, ask)) == {f"503 {UNDECIDABLE}": BURST}
            assert (later.count("store_silent"), later.metric("mcp_store_up")) == (1, 0)
            assert later.ops("suspensions", "list")[:2] == (1, "")
            redis_of(fleet).start()
            await becomes(OK, lambda: ask(ann))

            # Nothing of what was refused was counted
            assert tally(await burst([ann], BURST, ask)) == {OK: 2, "429 limit_caller": BURST - 2}
            assert (later.count("store_answers"), later.metric("mcp_store_up")) == (1, 1)


def ask(peer: Peer) -> Awaitable[Reply]:
    return peer.send("tools/list")
