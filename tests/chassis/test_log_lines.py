"""O1: one JSON object a line, with every field that rebuilds what happened."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from mcp.server.mcpserver import Context

from mcp_chassis.request import Status
from mcp_chassis.telemetry.logging import Event, Fields
from tests.chassis.client import ERAS, STATELESS_VERSION, Client, Era, exchange, raw
from tests.chassis.serving import chassis, settings, talking
from tests.chassis.tools import Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

OF_A_REQUEST = {"request_id", "mcp_request_id", "session_id", "caller_id", "tenant_id", "trace_id"}
OF_EVERY_LINE = {"timestamp", "level", "event"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def everything(client: Client) -> None:
    """Let a client do all that it can do, right and wrong."""
    await client.introduce()
    await client.call("add", {"a": 1, "b": 2})
    await client.call("refuse", {"text": "no"})
    for tool in ("steps", "crash", "slow"):
        await client.call(tool, token="token")
    await client.call("add", {"a": "x"})
    await client.call("nobody")
    await client.request("tools/list")
    await client.request("nobody/knows")
    await exchange(client.port, raw("POST", [("Content-Type", "application/json")], b"{"))
    await exchange(client.port, raw("POST", [("Content-Type", "application/json")], host="evil.example"))


@pytest.mark.parametrize("era", ERAS)
async def test_O1_every_line_of_a_real_run_is_an_object_of_declared_fields(era: Era, log: Log, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        await everything(client)

    assert len(log.lines()) > 12
    for line in log.lines():
        assert set(line) >= OF_EVERY_LINE | OF_A_REQUEST
        assert set(line) <= OF_EVERY_LINE | OF_A_REQUEST | set(Fields.__annotations__)
        assert line["event"] in get_args(Event)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])).total_seconds()) < 60
        assert re.fullmatch(r"[0-9a-f]{32}", line["request_id"])


@pytest.mark.parametrize("era", ERAS)
async def test_O1_line_of_a_call_measures_it(era: Era, log: Log, story: Story) -> None:
    arguments = {"text": "x" * 400}

    async with talking(chassis_server(story), era) as client:
        answer = await client.call("echo", arguments, id="call-1")
        await client.call("steps", {"count": 3}, token="token")
        await client.call("steps", {"count": 3})

    echoed, streamed, silent = log.lines("tool_called")
    assert echoed["tool_name"] == "echo"
    assert echoed["status"] == "ok"
    assert "error_code" not in echoed
    assert echoed["input_token_count"] == len(json.dumps(arguments, separators=(",", ":"))) // 4
    assert 0 < echoed["duration_ms"] < 10_000
    assert echoed["mcp_request_id"] == "call-1"
    assert echoed["request_id"] == answer.header("x-request-id")
    assert echoed["caller_id"] == "anonymous"
    assert echoed["session_id"] == client.session
    assert [echoed["notifications_sent"], streamed["notifications_sent"], silent["notifications_sent"]] == [0, 3, 3]


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
@pytest.mark.parametrize(("era", "sent"), [("handshake", 1), ("stateless", 0)])
async def test_O6_message_that_nobody_asked_for_is_not_counted_as_sent(
    era: Era, sent: int, log: Log, story: Story
) -> None:
    server = chassis_server(story)

    @server.tool()
    async def telling(context: Context) -> str:
        """Send a log message, which the stateless era wants to be asked for."""
        await context.session.send_log_message("info", "x")
        return "told"

    async with talking(server, era) as client:
        assert (await client.call("telling")).text() == "told"

    assert [line["notifications_sent"] for line in log.lines("tool_called")] == [sent]


OUTCOMES: dict[str, tuple[dict[str, Any], Status, str | None]] = {
    "add": ({"a": 1, "b": 2}, "ok", None),
    "refuse": ({"text": "no"}, "failed", "tool_failure"),
    "echo": ({"text": 5}, "rejected", "invalid_arguments"),
    "slow": ({}, "timeout", "timeout"),
    "crash": ({}, "crashed", "internal_error"),
    "nobody": ({}, "rejected", "-32602"),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", OUTCOMES)
async def test_O1_line_of_a_call_tells_how_it_ended(tool: str, era: Era, log: Log, story: Story) -> None:
    arguments, status, code = OUTCOMES[tool]

    async with talking(chassis_server(story), era) as client:
        await client.call(tool, arguments)

    [line] = log.lines("tool_called")
    assert (line["status"], line.get("error_code")) == (status, code)


@pytest.mark.parametrize("era", ERAS)
async def test_O1_introduction_tells_who_speaks_which_version(era: Era, log: Log, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        await client.introduce()

    line = [line for line in log.lines("message_handled") if line["method"] in ("initialize", "server/discover")][-1]
    assert (line["client_name"], line["client_version"]) == ("tests", "1.0")
    assert line["protocol_version"] == ("2025-11-25" if era == "handshake" else STATELESS_VERSION)


@pytest.mark.parametrize("era", ERAS)
async def test_O3_ids_of_the_edge_are_kept_if_they_are_well_formed(era: Era, log: Log, story: Story) -> None:
    good = [("X-Request-ID", "edge-1.2_3"), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]
    bad = [("X-Request-ID", "two words"), ("traceparent", "00-nonsense")]

    async with talking(chassis_server(story), era) as client:
        kept = await client.call("whoami", extra=good)
        minted = await client.call("whoami", extra=bad)

    first, second = log.lines("tool_called")
    assert (first["request_id"], first["trace_id"]) == ("edge-1.2_3", TRACE)
    assert kept.header("x-request-id") == kept.result()["structuredContent"]["id"] == "edge-1.2_3"
    assert second["request_id"] == minted.header("x-request-id") != "two words"
    assert second["trace_id"] is None


async def test_O1_refusal_of_the_boundary_has_its_line(log: Log, story: Story) -> None:
    async with chassis(chassis_server(story), settings(max_sessions=1)) as port:
        await exchange(port, raw("POST", [], host="evil.example"))
        await Client(port, "handshake").open()
        await Client(port, "handshake").introduce()

    refused = [(line["http_status"], line["reason"]) for line in log.lines("request_refused")]
    assert refused == [(421, "wrong_host"), (503, "too_many_sessions")]
    assert [line["sessions"] for line in log.lines("session_opened")] == [1]


async def test_O1_requests_at_the_same_time_keep_their_own_ids(log: Log, story: Story) -> None:
    """PROTOCOL.md, trap 10: context variables are per request in both eras, handler included."""
    import asyncio

    async with chassis(chassis_server(story)) as port:
        handshake, stateless = Client(port, "handshake"), Client(port, "stateless")
        await handshake.open()
        many = [(client, f"r{n}") for n in range(20) for client in (handshake, stateless)]
        answers = await asyncio.gather(
            *(client.call("whoami", id=f"i{name}", extra=[("X-Request-ID", name)]) for client, name in many)
        )

    assert [answer.result()["structuredContent"]["id"] for answer in answers] == [name for _, name in many]
    assert {line["request_id"]: line["mcp_request_id"] for line in log.lines("tool_called")} == {
        name: f"i{name}" for _, name in many
    }


async def test_O1_level_keeps_what_is_at_least_as_grave(story: Story) -> None:
    from mcp_chassis.telemetry.gate import configure

    log = Log()
    configure(stream=log.stream, level="error")
    async with talking(chassis_server(story), "stateless") as client:
        await client.call("add", {"a": "x"})
        await client.call("crash")

    assert [line["event"] for line in log.lines()] == ["crashed"]
