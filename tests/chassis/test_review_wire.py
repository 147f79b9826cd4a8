"""What a hostile review found on the wire: streams, questions, sessions, resources and the log (E1, E2, T1, T7)."""

from __future__ import annotations

import io
import json

import pytest
from mcp import Client as McpClient
from mcp.server.mcpserver import Context
from mcp_types import TextContent
from prometheus_client import REGISTRY
from pydantic import BaseModel

from mcp_chassis import Caller, Server
from mcp_chassis.telemetry.gate import configure
from mcp_chassis.testing import connect as connect_inside
from tests.chassis.client import (
    BOTH,
    ERAS,
    EVENTS,
    HANDSHAKE_VERSION,
    INTRODUCTION,
    JSON,
    Client,
    Era,
    connect,
    envelope,
    exchange,
    raw,
)
from tests.chassis.serving import chassis, settings, talking
from tests.chassis.tools import SECRET, Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


class Broken(io.StringIO):
    """A stream that cannot be written to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, _text: str, /) -> int:
        raise self.error


def lost_lines() -> float:
    """Return how many lines this process could not write."""
    return REGISTRY.get_sample_value("mcp_log_lines_lost_total") or 0.0


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed")])
@pytest.mark.parametrize("era", ERAS)
async def test_E2_log_that_cannot_be_written_costs_its_line_and_no_call(
    era: Era, error: Exception, story: Story
) -> None:
    configure(stream=Broken(error))
    at_first = lost_lines()

    async with talking(chassis_server(story), era) as client:
        assert (await client.call("add", {"a": 1, "b": 2})).text() == "3"
        before = lost_lines()
        crashed = await client.call("crash")
        assert (await client.call("nobody")).error()["code"] == -32602
        assert (await client.call("add", {"a": 3, "b": 4})).text() == "7"

    assert crashed.result()["_meta"]["errorCode"] == "internal_error"
    assert before > at_first
    assert lost_lines() >= before + 4


async def test_T2_last_event_id_does_not_spoil_a_stream(story: Story, log: Log) -> None:
    async with talking(chassis_server(story), "handshake") as client:
        head = [("Accept", EVENTS), ("Mcp-Session-Id", client.session or ""), ("Last-Event-ID", "7")]
        head.append(("MCP-Protocol-Version", HANDSHAKE_VERSION))
        async with connect(client.port) as stream:
            await stream.send(raw("GET", head))
            opened = await stream.head()
            while_open = await client.call("add", {"a": 1, "b": 2}, extra=[("Last-Event-ID", "7")])

    assert (opened.status, opened.shape) == (200, EVENTS)
    assert while_open.text() == "3"
    assert log.lines("crashed") == []


class Sure(BaseModel):
    """What the user is asked."""

    sure: bool


def asking() -> Server:
    """Return a server with a tool that asks the user."""
    server = Server("asking")

    @server.tool()
    async def ask(context: Context) -> str:
        return str(await context.elicit("Sure?", Sure))

    return server


@pytest.mark.parametrize("era", ERAS)
async def test_E5_question_that_a_json_client_cannot_hear_is_answered_at_once(era: Era, log: Log) -> None:
    async with chassis(asking()) as port:
        client = Client(port, era)
        if era == "handshake":
            able = {**INTRODUCTION, "capabilities": {"elicitation": {}}}
            client.session = (await client.request("initialize", able)).header("mcp-session-id")
            await client.request("notifications/initialized", id=None)
        asked = await client.call("ask", accept=JSON)
        again = await client.call("ask", accept=JSON)

    for answer in (asked, again):
        assert (answer.status, answer.shape) == (200, JSON)
        assert answer.result()["isError"]
        assert answer.result()["_meta"]["errorCode"] == "cannot_ask"
        assert answer.text() == "ask has to ask the user, and this client cannot be asked; call it from one that can"
    assert log.lines("crashed") == []
    assert {line["error_code"] for line in log.lines("tool_called")} == {"cannot_ask"}


async def test_E5_client_that_never_said_it_answers_is_not_asked() -> None:
    async with chassis(asking()) as port:
        client = Client(port, "handshake")
        client.session = (await client.request("initialize", INTRODUCTION)).header("mcp-session-id")
        await client.request("notifications/initialized", id=None)

        answer = await client.call("ask")

    assert answer.result()["_meta"]["errorCode"] == "cannot_ask"


async def test_A8_clients_that_are_open_at_once_keep_their_callers() -> None:
    server = Server("tests")

    @server.tool()
    async def whoami(caller: Caller) -> str:
        return f"{caller.id} of {caller.tenant}"

    async def told(client: McpClient) -> str:
        result = await client.call_tool("whoami", {})
        part = result.content[0]
        assert isinstance(part, TextContent)
        return part.text

    async with (
        connect_inside(server, caller=Caller("ann", "north")) as ann,
        connect_inside(server, caller=Caller("bob", "south")) as bob,
    ):
        found = [await told(client) for client in (ann, bob, ann, bob)]
        async with connect_inside(server) as local:
            found += [await told(local), await told(ann)]

    assert found == [*["ann of north", "bob of south"] * 2, "local of default", "ann of north"]


def notes() -> Server:
    """Return a server whose notes cannot be read."""
    server = Server("notes")

    @server.resource("note://{name}")
    async def note(name: str) -> str:
        raise LookupError(f"{SECRET} {name}")

    return server


@pytest.mark.parametrize("era", ERAS)
async def test_E1_crash_of_a_resource_is_told_by_its_id_and_logged_by_its_place(era: Era, log: Log) -> None:
    async with talking(notes(), era) as client:
        answer = await client.request("resources/read", {"uri": "note://canary"}, accept=JSON)

    (line,) = log.lines("crashed")
    request_id = answer.header("x-request-id")
    assert answer.error() == {
        "code": -32603,
        "message": f"Internal error; quote request {request_id} when you report it",
        "data": {"requestId": request_id},
    }
    assert (line["request_id"], line["exception_type"]) == (request_id, "LookupError")
    assert line["stack"][-1].startswith("test_review_wire.py:")
    assert line["stack"][-1].endswith(":note")
    assert "canary" not in log.text()
    assert SECRET not in log.text()


@pytest.mark.parametrize("era", ERAS)
async def test_E1_crash_of_a_prompt_is_logged_by_its_place(era: Era, log: Log) -> None:
    server = Server("tests")

    @server.prompt()
    async def torn() -> str:
        raise LookupError(SECRET)

    async with talking(server, era) as client:
        answer = await client.request("prompts/get", {"name": "torn"}, accept=JSON)

    (line,) = log.lines("crashed")
    assert answer.error()["code"] == -32603
    assert line["exception_type"] == "LookupError"
    assert line["stack"][-1].endswith(":torn")


@pytest.mark.parametrize("era", ERAS)
async def test_E4_uri_that_is_too_long_is_refused_without_being_repeated(era: Era, log: Log) -> None:
    async with talking(notes(), era) as client:
        answer = await client.request("resources/read", {"uri": "note://" + "canary" * 500}, accept=JSON)

    assert answer.status == (200 if era == "handshake" else 400)
    assert answer.error()["code"] == -32602
    assert answer.error()["message"] == "Invalid params: uri must have at most 2048 characters"
    assert "canary" not in answer.body.decode() + log.text()
    assert log.lines("crashed") == []


HEAD = [("Content-Type", JSON), ("Accept", BOTH)]
PING = json.dumps(envelope("ping")).encode()


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_T1_slash_at_the_end_is_another_path_and_no_redirect(method: str, story: Story) -> None:
    async with chassis(chassis_server(story)) as port:
        answer = await exchange(port, raw(method, HEAD, PING if method == "POST" else b"", path="/mcp/"))

    assert (answer.status, answer.header("location")) == (404, None)


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_T7_request_without_a_session_is_refused_and_opens_none(method: str, story: Story, log: Log) -> None:
    async with chassis(chassis_server(story)) as port:
        answer = await exchange(port, raw(method, HEAD, PING if method == "POST" else b""))

    assert (answer.status, answer.header("mcp-session-id")) == (400, None)
    assert answer.error()["message"] == "Mcp-Session-Id is missing; initialize first"
    assert log.lines("session_opened") == log.lines("session_closed") == []


async def test_T7_initialize_without_an_id_is_refused_and_opens_no_session(story: Story, log: Log) -> None:
    body = json.dumps(envelope("initialize", INTRODUCTION, id=None)).encode()

    async with chassis(chassis_server(story), settings(max_sessions=1)) as port:
        answer = await exchange(port, raw("POST", HEAD, body))
        opened = await Client(port, "handshake").open()

    assert (answer.status, answer.header("mcp-session-id")) == (400, None)
    assert answer.error()["message"] == "initialize needs an id"
    assert opened is not None
    assert [line["sessions"] for line in log.lines("session_opened")] == [1]


@pytest.mark.parametrize("seconds", [0, 7, 0.25])
async def test_T9_discovery_may_be_kept_as_long_as_the_lists(seconds: float, story: Story) -> None:
    async with talking(chassis_server(story), "stateless", settings(list_ttl=seconds)) as client:
        discovered = (await client.introduce()).result()
        listed = (await client.request("tools/list")).result()

    assert discovered["ttlMs"] == listed["ttlMs"] == seconds * 1000
