"""The tools, called as a client calls them."""

import pytest
from mcp_types import TextContent

from mcp_chassis import Caller, Server
from mcp_chassis.testing import connect

pytestmark = pytest.mark.anyio

SCOPES = frozenset({"notes:read", "notes:write"})


async def test_a_note_is_found_by_its_text(server: Server) -> None:
    async with connect(server) as client:
        await client.call_tool("add_note", {"text": "The edge listens on 8443"})

        found = await client.call_tool("search_notes", {"query": "EDGE LISTENS"})

    assert found.structured_content is not None
    assert found.structured_content["result"][0]["text"] == "The edge listens on 8443"


async def test_a_tenant_sees_its_own_notes_only(server: Server) -> None:
    async with connect(server, caller=Caller("agent-1", "acme", SCOPES)) as client:
        await client.call_tool("add_note", {"text": "acme's secret plan"})

    async with connect(server, caller=Caller("agent-2", "other", SCOPES)) as client:
        found = await client.call_tool("search_notes", {"query": "secret plan"})

    assert found.structured_content == {"result": []}


async def test_a_reader_is_not_shown_what_it_may_not_call(server: Server) -> None:
    async with connect(server, caller=Caller("agent-3", "acme", frozenset({"notes:read"}))) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        refused = await client.call_tool("add_note", {"text": "hello"})

    assert "search_notes" in listed
    assert "add_note" not in listed
    assert refused.is_error


async def test_an_empty_note_is_refused_with_the_rule_it_breaks(server: Server) -> None:
    async with connect(server) as client:
        refused = await client.call_tool("add_note", {"text": ""})

    assert refused.is_error
    assert isinstance(refused.content[0], TextContent)
    assert "text must have at least 1 character" in refused.content[0].text


async def test_progress_arrives_step_by_step(server: Server) -> None:
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with connect(server) as client:
        result = await client.call_tool("countdown", {"seconds": 0.05, "steps": 3}, progress_callback=on_progress)

    assert not result.is_error
    assert seen == [1, 2, 3]
