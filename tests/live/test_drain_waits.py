"""What holds the end of a server, and what does not: calls, streams, idle sessions, clients who left (S3)."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from tests.chassis.client import EVENTS, JSON, Era
from tests.live.draining import (
    Site,
    Visitor,
    counts,
    drain,
    ended,
    eras,
    events,
    rest_of,
    site,
    told,
    ways,
)
from tests.live.gate import Gate, gate
from tests.live.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("drain")]

IDLE = 1000
"""Sessions, all that a server may have by default."""
STREAMS = 20


@ways
@eras
async def test_S3_streams_end_at_once_and_orderly_while_calls_go_on(way: str, era: Era, extended: Project) -> None:
    with site(way, extended) as here:
        async with gate() as held:
            visitor = await here.visitor(era)
            call = asyncio.create_task(visitor.call("hold", {"port": held.port}, id="running"))
            await held.holds(1)
            async with visitor.connected() as connection:
                await connection.send(visitor.listening())
                head = await connection.head()
                before = b"" if era == "handshake" else await connection.chunk()

                started = await drain(here.server)
                # An empty chunk ends it: a connection that is cut has none.
                after = await rest_of(connection)

            assert held.running == 1
            await held.open()
            assert (await call).text() == "held"
        assert await ended(here.server) == 0

    assert (head.status, head.shape, head.header("transfer-encoding")) == (200, EVENTS, "chunked")
    assert started["streams"] == 1
    assert counts(started) == {"calls": 1}
    if era == "stateless":
        assert b"subscriptions/acknowledged" in before
        last = [json.loads(line[5:]) for line in after.splitlines() if line.startswith(b"data:")]
        assert [message.get("id") for message in last] == ["listen"]
        assert "result" in last[0]


async def test_S3_thousand_idle_sessions_and_their_streams_do_not_hold_the_drain(extended: Project) -> None:
    turns = asyncio.Semaphore(50)
    with site("direct", extended) as here:

        async def arrive() -> Visitor:
            async with turns:
                visitor = Visitor(here.port, "handshake")
                await visitor.begin()
                return visitor

        visitors = await asyncio.gather(*(arrive() for _ in range(IDLE)))
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(visitor.connected()) for visitor in visitors[:STREAMS]]
            for visitor, stream in zip(visitors, streams, strict=False):
                await stream.send(visitor.bodiless("GET"))
                assert (await stream.head()).status == 200

            started = await drain(here.server)
            code = await ended(here.server)
            for stream in streams:
                await rest_of(stream)

    drained = await told(here.server, "drained")
    assert code == 0
    assert (drained["sessions"], drained["streams"], counts(drained)["calls"]) == (IDLE, STREAMS, 0)
    assert drained["seconds"] < started["seconds"] / 20


@pytest.mark.parametrize("accept", [EVENTS, JSON])
async def test_S3_call_whose_client_has_left_is_finished(accept: str, extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            await leave(here, await here.visitor("handshake"), held, accept)

            started = await drain(here.server)
            # As many looks as a drain that forgets the call would need to be over many times.
            for _ in range(20):
                assert (await here.probe("/health/ready")).status == 503
                await asyncio.sleep(0.02)
            assert held.running == 1
            await held.open()
        assert await ended(here.server) == 0

    assert counts(started) == {"calls": 1}
    assert events(here.server, "tool_called", "drained") == ["tool_called", "drained"]
    assert (await told(here.server, "tool_called"))["status"] == "ok"


async def test_S3_leaving_is_how_a_stateless_client_cancels_and_holds_nothing(extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            await leave(here, await here.visitor("stateless"), held, EVENTS)
            await held.holds(0)
            started = await drain(here.server)
            assert await ended(here.server) == 0

    assert counts(started) == {"calls": 0}


async def leave(here: Site, visitor: Visitor, held: Gate, accept: str) -> None:
    """Call, and go away; return when the server knows that nobody waits any more."""
    async with visitor.connected() as connection:
        calling = {"name": "hold", "arguments": {"port": held.port}}
        await connection.send(visitor.request_bytes("tools/call", calling, accept=accept))
        await held.holds(1)
    await here.answered()
