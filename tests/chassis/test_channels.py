"""E1, E4: every outcome has one channel and says what is needed, in the words that were meant for the client."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import pytest
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from mcp_chassis import Server, ToolFailure
from tests.chassis.client import ERAS, EVENTS, JSON, Era, Response, envelope, exchange, raw
from tests.chassis.serving import talking
from tests.chassis.tools import SECRET, Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


TEXTS = ["The note is archived; restore it first.", "", "{x} %s \\n\n", "Zürich 🎉 data: [DONE]\r\n\r\n", "x" * 50_000]


@pytest.mark.parametrize("accept", [JSON, EVENTS])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("text", TEXTS)
async def test_E1_text_of_a_tool_failure_reaches_the_caller_as_it_is(
    text: str, era: Era, accept: str, log: Log, story: Story
) -> None:
    async with talking(chassis_server(story), era) as client:
        failed = await client.call("refuse", {"text": text}, accept=accept)
        afterwards = await client.call("add", {"a": 1, "b": 2}, accept=accept)

    assert failed.result()["isError"]
    assert failed.text() == text
    assert failed.result()["_meta"]["errorCode"] == "tool_failure"
    assert "structuredContent" not in failed.result()
    assert len(text) < 5 or text not in log.text()
    assert afterwards.text() == "3"


@pytest.mark.parametrize("era", ERAS)
async def test_E1_the_sdks_own_errors_keep_their_meaning(era: Era, log: Log) -> None:
    server = Server("tests")

    @server.tool()
    async def stock() -> str:
        raise ToolError("Ask for less")

    @server.tool()
    async def chained() -> str:
        raise ToolFailure("Ask for less") from LookupError(SECRET)

    @server.tool()
    async def nested() -> str:
        return str(await server.call_tool("stock", {}))

    @server.tool()
    async def protocol() -> str:
        raise MCPError(-32011, "Pay first", {"price": 1})

    async with talking(server, era) as client:
        for tool in ("stock", "chained"):
            assert (await client.call(tool)).text() == "Ask for less"
        assert "Ask for less" in (await client.call("nested")).text()
        error = (await client.call("protocol")).error()

    assert error == {"code": -32011, "message": "Pay first", "data": {"price": 1}}
    assert SECRET not in log.text()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", ["nobody", "", "n" * 128, "Zürich\x00\u202e", "add ", "ADD"])
async def test_E4_unknown_tool_is_a_protocol_error(name: str, era: Era, log: Log, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        request = client.params({"name": name, "arguments": {}})
        head = [pair for pair in client.head("tools/call", request, JSON) if pair[0] != "Mcp-Name"]
        if era == "stateless":
            head.append(("Mcp-Name", encoded(name)))
        answer = await exchange(client.port, raw("POST", head, json.dumps(envelope("tools/call", request)).encode()))

    assert answer.error()["code"] == -32602
    assert answer.error()["message"].startswith("Unknown tool: ")
    assert all(character.isprintable() for character in answer.error()["message"])
    assert [line["tool_name"] for line in log.lines("tool_called")] == ["unknown"]


def encoded(name: str) -> str:
    """Return a header value for any text, as the specification encodes it (2026-07-28, Mcp-Name)."""
    plain = name.isascii() and name.isprintable() and name.strip() == name and name
    return name if plain else f"=?base64?{base64.b64encode(name.encode()).decode()}?="


def content() -> Server:
    """Return a server whose prompts and resources break."""
    server = Server("content")

    @server.prompt()
    async def torn(text: str) -> str:
        raise LookupError(f"{SECRET} {text}")

    @server.prompt()
    async def numbered(number: int) -> str:
        return str(number)

    @server.resource("note://torn")
    async def torn_note() -> str:
        raise LookupError(SECRET)

    @server.resource("note://left")
    async def left_note() -> str:
        sys.exit(SECRET)

    return server


CONTENT: list[tuple[str, dict[str, Any], int, str]] = [
    ("prompts/get", {"name": "nobody"}, -32602, "Unknown prompt: nobody"),
    ("prompts/get", {"name": "torn"}, -32602, "Invalid params: text is required"),
    (
        "prompts/get",
        {"name": "numbered", "arguments": {"number": SECRET}},
        -32602,
        "Invalid params: number is not valid",
    ),
    ("prompts/get", {"name": "torn", "arguments": {"text": "x"}}, -32603, "Internal error"),
    ("resources/read", {"uri": "note://nobody"}, -32602, "Unknown resource: note://nobody"),
    ("resources/read", {"uri": "note://torn"}, -32603, "Internal error; quote request "),
    ("resources/read", {"uri": "note://left"}, -32603, "Internal error"),
    ("nobody/knows", {}, -32601, "Method not found"),
    ("tools/call", {"name": ["x"]}, -32602, "Invalid params: params.name must be a valid string"),
    ("tools/call", {"arguments": {}}, -32602, "Invalid params: params.name is required"),
    ("tools/list", {"cursor": {}}, -32602, "Invalid params: params.cursor must be a valid string"),
]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("method", "params", "code", "message"), CONTENT)
async def test_E1_protocol_failure_is_an_error_with_the_right_code_and_status(
    method: str, params: dict[str, Any], code: int, message: str, era: Era, log: Log
) -> None:
    async with talking(content(), era) as client:
        answer = await client.request(method, params, accept=JSON)
        afterwards = await client.request("tools/list")

    if era == "stateless" and params.get("name") == ["x"]:
        code, message = -32020, "mcp-name header does not match"  # headers are compared before the body is read
    status = 200 if era == "handshake" or code == -32603 else 404 if code == -32601 else 400
    assert (answer.status, answer.error()["code"]) == (status, code)
    assert answer.error()["message"].startswith(message)
    assert SECRET not in answer.body.decode() + log.text()
    assert afterwards.status == 200


def arguments_error(answer: Response) -> str:
    assert answer.result()["isError"]
    assert answer.result()["_meta"]["errorCode"] == "invalid_arguments"
    assert "structuredContent" not in answer.result()
    return answer.text().removeprefix("Invalid arguments: ")


VIOLATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("add", {}, "a is required; b is required"),
    ("add", {"a": 1}, "b is required"),
    ("add", {"a": 1, "b": 2, "c": SECRET}, "c is not an argument of this tool"),
    ("add", {"a": "5", "b": True}, "a must be a valid integer; b must be a valid integer"),
    ("add", {"a": None, "b": [SECRET]}, "a must be a valid integer; b must be a valid integer"),
    ("add", {"a": 1.5, "b": 1}, "a must be a valid integer"),
    ("echo", {"text": "x" * 100_001}, "text must have at most 100000 characters"),
    ("echo", {"text": {"x": SECRET}}, "text must be a valid string"),
    ("ping", {"steps": 21}, "steps must be less than or equal to 20"),
    ("ping", {"interval": SECRET}, "interval must be a valid number"),
]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("tool", "arguments", "told"), VIOLATIONS)
async def test_E4_bad_argument_is_a_result_naming_field_and_rule(
    tool: str, arguments: dict[str, Any], told: str, era: Era, story: Story
) -> None:
    async with talking(chassis_server(story), era) as client:
        assert arguments_error(await client.call(tool, arguments)) == told
        assert (await client.call("add", {"a": 1, "b": 2})).text() == "3"
