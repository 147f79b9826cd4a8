"""A server that was asked to stop answers what it has begun and begins nothing (S3)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.chassis.client import EVENTS, Connection, Era, raw
from tests.live.draining import (
    KINDS,
    SHAPES,
    Visitor,
    counts,
    drain,
    ended,
    eras,
    events,
    refused,
    rest_of,
    site,
    told,
    ways,
)
from tests.live.gate import gate
from tests.live.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("drain")]

NEW: dict[Era, tuple[str, ...]] = {
    "handshake": ("initialize", "tools/list", "tools/call", "prompts/list", "ping"),
    "stateless": ("server/discover", "tools/list", "tools/call", "subscriptions/listen"),
}
"""Requests that ask for something."""
STOCK_CUT = 2.0
"""Seconds after which the stock stack has surely cut the event streams of calls; it does so after half a second."""


@ways
async def test_S3_every_call_in_flight_is_answered_in_both_eras_and_shapes(way: str, extended: Project) -> None:
    with site(way, extended) as here:
        async with gate() as held:
            calls = await here.hold(held)
            newcomers = [await here.visitor(era) for era in ("handshake", "stateless")]

            started = await drain(here.server)
            probes = {
                path: await here.probe(f"/{path}") for path in ("health/live", "health/ready", "health", "metrics")
            }
            late = await asyncio.gather(*(visitor.call("hold", {"port": held.port}) for visitor in newcomers))
            await asyncio.sleep(STOCK_CUT)
            assert held.running == len(KINDS)
            await held.open()
            answers = await asyncio.gather(*calls)
            code = await ended(here.server)

    assert [answer.status for answer in answers] == [200] * len(KINDS)
    assert [answer.text() for answer in answers] == ["held"] * len(KINDS)
    assert [answer.shape for answer in answers] == [SHAPES.get(kind, kind[1]) for kind in KINDS]
    assert code == 0
    # Not ready, but alive: an orchestrator sends nobody here, and kills nothing.
    assert {path: answer.status for path, answer in probes.items()} == {
        "health/live": 200,
        "health/ready": 503,
        "health": 503,
        "metrics": 200,
    }
    assert json.loads(probes["health"].body)["draining"] is True
    assert b"\nmcp_draining 1.0\n" in probes["metrics"].body
    # Its connection is open, so no edge makes a 502 of it.
    assert [refused(answer) for answer in late] == [True, True], late
    assert "Traceback" not in here.server.output
    assert events(here.server, "drain_started", "tool_called", "drained", "server_stopped") == [
        "drain_started",
        *["tool_called"] * len(KINDS),
        "drained",
        "server_stopped",
    ]
    drained = await told(here.server, "drained")
    assert counts(started) == {"calls": len(KINDS)}
    assert counts(drained) == {"calls": len(KINDS), "interrupted": 0, "cut": 0}
    # Those of the calls, and one that did nothing.
    assert drained["sessions"] == 4
    assert 0 < drained["seconds"] < started["seconds"] == 125


@eras
async def test_S3_request_on_a_kept_connection_is_told_to_come_again_on_another(era: Era, extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            visitor = await here.visitor(era)
            async with visitor.connected() as kept:
                await kept.send(visitor.request_bytes("tools/call", {"name": "ping", "arguments": {}}))
                assert (await kept.answer()).text() == "pong"
                call = asyncio.create_task(visitor.call("hold", {"port": held.port}, id="running"))
                await held.holds(1)
                await drain(here.server)

                again = {"name": "hold", "arguments": {"port": held.port}}
                await kept.send(visitor.request_bytes("tools/call", again, id="late"))
                answer = await kept.answer()
                closed = await kept.closed()

            assert held.running == 1
            await held.open()
            assert (await call).text() == "held"
        assert await ended(here.server) == 0

    assert refused(answer), answer
    assert answer.message()["id"] == "late"
    assert answer.header("connection") == "close"
    assert closed
    lines = [line for line in here.server.lines if line["event"] == "request_refused"]
    assert [(line["http_status"], line["reason"], line["mcp_request_id"]) for line in lines] == [
        (503, "draining", "late")
    ]


@eras
async def test_S3_nothing_new_begins_on_a_new_connection(era: Era, extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            visitor = await here.visitor(era)
            call = asyncio.create_task(visitor.call("hold", {"port": held.port}, id="running"))
            await held.holds(1)
            await drain(here.server)

            stranger = Visitor(here.port, era, session=visitor.session)
            answers = {method: await stranger.request(method, {"name": "ping"}) for method in NEW[era]}
            if era == "handshake":
                answers["GET"] = await stranger.send(stranger.bodiless("GET"))

            await held.open()
            assert (await call).text() == "held"
        assert await ended(here.server) == 0

    assert {method: refused(answer) for method, answer in answers.items()} == dict.fromkeys(answers, True), answers
    assert {answer.header("connection") for answer in answers.values()} == {"close"}
    assert not [line for line in here.server.lines if line["event"] == "session_opened"][1:]


async def test_S3_body_that_was_on_its_way_is_refused_not_lost(extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            visitor = await here.visitor("stateless")
            call = asyncio.create_task(visitor.call("hold", {"port": held.port}))
            await held.holds(1)
            request = visitor.request_bytes("tools/call", {"name": "hold", "arguments": {"port": held.port}})
            async with visitor.connected() as slow:
                await slow.send(request[:-1])
                await drain(here.server)
                await slow.send(request[-1:])
                answer = await slow.answer()
            assert held.running == 1
            await held.open()
            await call
        assert await ended(here.server) == 0

    assert refused(answer), answer


# --- what belongs to a running call, or ends something ------------------------------------------------------------


async def question(connection: Connection) -> Any:
    """Read a stream up to the server's question, and return it."""
    read = b""
    while b"elicitation/create" not in read:
        read += await connection.chunk()
    line = next(line for line in read.splitlines() if b"elicitation/create" in line)
    return json.loads(line.removeprefix(b"data:"))


async def test_S3_answer_to_the_question_of_a_running_call_gets_through(extended: Project) -> None:
    with site("direct", extended) as here:
        visitor = await here.visitor("handshake", {"elicitation": {}})
        async with visitor.connected() as stream:
            asking = {"name": "test_elicitation", "arguments": {"message": "Who?"}}
            await stream.send(visitor.request_bytes("tools/call", asking, accept=EVENTS))
            assert (await stream.head()).status == 200
            asked = await question(stream)
            await drain(here.server)

            content = {"username": "ann", "email": "ann@example.com"}
            said = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": content}}
            delivered = await visitor.send(raw("POST", visitor.head("", {}, EVENTS), json.dumps(said).encode()))
            rest = await rest_of(stream)
        assert await ended(here.server) == 0

    assert delivered.status == 202
    assert b"action=accept" in rest
    assert counts(await told(here.server, "drained")) == {"calls": 1, "interrupted": 0, "cut": 0}


async def test_S3_second_round_of_a_stateless_question_is_a_new_request(extended: Project) -> None:
    tool = "test_input_required_result_request_state"
    with site("direct", extended) as here:
        async with gate() as held:
            visitor = await here.visitor("stateless")
            call = asyncio.create_task(visitor.call("hold", {"port": held.port}))
            await held.holds(1)
            first = (await visitor.call(tool)).result()
            await drain(here.server)

            said = {"confirm": {"action": "accept", "content": {"ok": True}}}
            again = {"name": tool, "arguments": {}, "inputResponses": said, "requestState": first["requestState"]}
            answer = await visitor.request("tools/call", again)

            await held.open()
            await call
        assert await ended(here.server) == 0

    assert first["resultType"] == "input_required"
    # The client holds the state; another replica with the same keys goes on (S7).
    assert refused(answer), answer


async def test_S3_cancellation_and_farewell_get_through(extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            visitor, leaving = await here.visitor("handshake"), await here.visitor("handshake")
            calls = [
                asyncio.create_task(visitor.call("hold", {"port": held.port}, id=name)) for name in ("one", "other")
            ]
            await held.holds(2)
            await drain(here.server)

            cancelled = await visitor.request("notifications/cancelled", {"requestId": "one"}, id=None)
            await held.holds(1)
            farewell = await leaving.send(leaving.bodiless("DELETE"))
            await told(here.server, "session_closed", reason="ended")

            await held.open()
            answers = await asyncio.gather(*calls)
        assert await ended(here.server) == 0

    assert (cancelled.status, farewell.status) == (202, 200)
    assert "held" not in answers[0].body.decode()
    assert answers[1].text() == "held"
    assert (await told(here.server, "drained"))["sessions"] == 1
