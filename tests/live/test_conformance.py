"""The official conformance suite passes on the hardened server, in both eras (T3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import TextContent

from tests.live.conformance import Report, required, run_suite
from tests.live.curl import ERAS, STATELESS, Era, converse
from tests.live.project import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live")]

HANDSHAKE_SUITE = "0.1.16"
HANDSHAKE_SCENARIOS = 30
STATELESS_SUITE = "0.2.0-alpha.12"

POLLING = "server-sse-polling"
"""Not scored, and it asks for events that can be replayed, which the server does not keep: it only warns."""


def test_T3_handshake_era_suite_finds_no_fault(everything: ServerProcess, tmp_path: Path) -> None:
    report = run_suite(HANDSHAKE_SUITE, everything.url, tmp_path)

    assert len(report.scenarios) == HANDSHAKE_SCENARIOS
    failed = report.failed(report.scenarios)
    assert failed == [], report.table(report.scenarios)


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_T3_newest_suite_finds_no_fault(revision: str, everything: ServerProcess, tmp_path: Path) -> None:
    scored = [name for name in required(STATELESS_SUITE, revision) if name != POLLING]

    report = run_suite(STATELESS_SUITE, everything.url, tmp_path, "--requirements", revision)

    failed = report.failed(scored)
    assert failed == [], report.table(scored)


def test_T3_suite_notices_a_server_without_the_tools(server: ServerProcess, tmp_path: Path) -> None:
    report = run_suite(HANDSHAKE_SUITE, server.url, tmp_path)

    assert "tools-call-image" in report.failed(report.scenarios)
    assert "FAILED tools-call-image: 0 of 1 checks" in report.table(report.scenarios)


def test_T3_a_scenario_that_checked_nothing_has_not_passed() -> None:
    assert Report({"silent": []}).failed(["silent", "missing"]) == ["silent", "missing"]


# --- what scenarios pass over: they are content with a server that has none of it ---------------------------------


@pytest.mark.parametrize("era", ERAS, ids=str)
async def test_T3_simple_text_is_the_text(era: Era, everything: ServerProcess) -> None:
    async with Client(everything.url, mode=era.mode) as client:
        result = await client.call_tool("test_simple_text")

    assert not result.is_error
    assert result.content == [TextContent(type="text", text="This is a simple text response for testing.")]


@pytest.mark.parametrize("era", ERAS, ids=str)
async def test_T3_failing_tool_tells_what_its_author_wrote(era: Era, everything: ServerProcess) -> None:
    async with Client(everything.url, mode=era.mode) as client:
        result = await client.call_tool("test_error_handling")

    assert result.is_error
    assert [getattr(part, "text", None) for part in result.content] == [
        "This tool intentionally returns an error for testing"
    ]


@pytest.mark.parametrize("era", ERAS, ids=str)
async def test_T3_lists_are_not_empty(era: Era, everything: ServerProcess) -> None:
    async with Client(everything.url, mode=era.mode) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
        resources = {str(resource.uri) for resource in (await client.list_resources()).resources}

    assert {"test_simple_text", "add_note", "ping"} <= tools
    assert "test_simple_prompt" in prompts
    assert resources == {"test://static-text", "test://static-binary", "test://watched-resource"}


GREETING = {"user_name": {"action": "accept", "content": {"name": "Alice"}}}


@pytest.mark.parametrize(
    ("responses", "asked_again"),
    [
        ({}, True),
        ({"another": {"action": "accept", "content": {"name": "Alice"}}}, True),
        (GREETING, False),
        (GREETING | {"unknown": {"action": "accept", "content": {"foo": "bar"}}}, False),
    ],
    ids=["none", "another", "right", "right and more"],
)
def test_T3_input_that_was_required_is_asked_for_until_it_comes(
    responses: dict[str, Any], asked_again: bool, everything: ServerProcess
) -> None:
    params = {"name": "test_input_required_result_elicitation", "arguments": {}, "inputResponses": responses}

    result = converse(everything.url, STATELESS).post("tools/call", params).message["result"]

    if asked_again:
        assert result["resultType"] == "input_required"
        assert list(result["inputRequests"]) == ["user_name"]
    else:
        assert result["resultType"] == "complete"
        assert result["content"] == [{"type": "text", "text": "Hello, Alice!"}]
