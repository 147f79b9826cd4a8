"""Clients that people really use, in both eras (T3, T4, E1)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from fastmcp import Client as FastClient
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from tests.live.curl import ERAS, STATELESS, Era
from tests.live.node import installed, node
from tests.live.project import Project, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live")]

TOOLS = ["add_note", "countdown", "ping", "search_notes"]
SECONDS, STEPS = 2.0, 5
SMOOTH = 0.8
"""Share of the time between the first and the last event as sent that is left between them as received."""

eras = pytest.mark.parametrize("era", ERAS, ids=str)


@dataclass
class Arrivals:
    """What a progress callback was told, and when."""

    progress: list[float] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append(progress)
        self.moments.append(time.monotonic())

    def assert_one_by_one(self) -> None:
        """Compare with the pace of the tool: it sends an event each `SECONDS / STEPS`."""
        assert self.progress == list(range(1, STEPS + 1))
        pace = SECONDS / STEPS
        assert self.moments[-1] - self.moments[0] >= SMOOTH * pace * (STEPS - 1)
        assert min(later - earlier for earlier, later in pairwise(self.moments)) > pace / 4


@eras
async def test_T3_official_client_works_in_the_era_it_chooses(era: Era, server: ServerProcess) -> None:
    async with Client(server.url, mode=era.mode) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        await client.call_tool("add_note", {"text": f"Written in the {era} era"})
        found = await client.call_tool("search_notes", {"query": f"the {era} era"})
        version = client.protocol_version

    assert version == era.version
    assert sorted(tools) == TOOLS
    assert found.structured_content is not None
    assert found.structured_content["result"][0]["text"] == f"Written in the {era} era"


async def test_T3_official_client_left_to_itself_finds_the_newest_era(server: ServerProcess) -> None:
    async with Client(server.url, mode="auto") as client:
        assert client.protocol_version == STATELESS.version
        assert client.server_info is not None
        assert client.server_info.name == "acme-notes"


@eras
async def test_T4_official_client_sees_progress_when_it_happens(era: Era, server: ServerProcess) -> None:
    arrivals = Arrivals()

    async with Client(server.url, mode=era.mode) as client:
        arguments = {"seconds": SECONDS, "steps": STEPS}
        result = await client.call_tool("countdown", arguments, progress_callback=arrivals)

    assert result.content == [TextContent(type="text", text=f"counted {STEPS} steps")]
    arrivals.assert_one_by_one()


@eras
async def test_E1_session_survives_each_failure_of_a_tool(era: Era, everything: ServerProcess) -> None:
    async with Client(everything.url, mode=era.mode) as client:
        declined = await client.call_tool("decline")
        crashed = await client.call_tool("crash", {"secret": "s3cret"})
        began = time.monotonic()
        late = await client.call_tool("linger")
        took = time.monotonic() - began
        rejected = await client.call_tool("add_note", {"text": 5, "extra": "x"})
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("no_such_tool")
        after = await client.call_tool("ping")

    assert [result.is_error for result in (declined, crashed, late, rejected, after)] == [True] * 4 + [False]
    assert unknown.value.error.code == -32602
    assert 0.2 <= took < 2
    texts = [getattr(result.content[0], "text", "") for result in (declined, crashed, late, rejected)]
    assert texts[0] == "the note is archived; restore it first"
    assert re.fullmatch(r"crash failed unexpectedly; quote request [0-9a-f]{32} when you report it", texts[1])
    assert texts[2].startswith("linger was stopped after 0.2 s")
    assert "text must be a valid string" in texts[3]
    assert "extra is not an argument of this tool" in texts[3]


@eras
async def test_T3_fastmcp_client_works_in_both_eras(era: Era, server: ServerProcess) -> None:
    arrivals = Arrivals()

    async with FastClient(server.url, mode=era.mode) as client:
        tools = [tool.name for tool in await client.list_tools()]
        arguments = {"seconds": SECONDS, "steps": STEPS}
        result = await client.call_tool("countdown", arguments, progress_handler=arrivals)
        refused = await client.call_tool("add_note", {"text": ""}, raise_on_error=False)
        version = client.protocol_version

    assert version == era.version
    assert sorted(tools) == TOOLS
    assert result.structured_content == {"result": f"counted {STEPS} steps"}
    assert refused.is_error
    arrivals.assert_one_by_one()


# --- MCP Inspector ------------------------------------------------------------------------------------------------

INSPECTOR = "@modelcontextprotocol/inspector", "2.12.0"
TOOL_ERROR = 5

Inspect = Callable[..., tuple[int, str]]


@pytest.fixture(params=["http", "stdio"])
def inspect(request: pytest.FixtureRequest, server: ServerProcess, project: Project) -> Inspect:
    """Return a way to run the Inspector against the server, over each transport."""
    script = installed(*INSPECTOR) / "clients" / "launcher" / "build" / "index.js"
    target = (server.url, "--transport", "http") if request.param == "http" else (str(project.command), "stdio")

    def run(era: Era, *arguments: str) -> tuple[int, str]:
        done = node(script, "--cli", *target, "--protocol-era", era.inspector, *arguments, cwd=project.root)
        # The server's log comes through on standard error.
        return done.returncode, done.stdout or done.stderr

    return run


@eras
def test_T3_inspector_lists_tools_whose_schemas_every_model_can_read(era: Era, inspect: Inspect) -> None:
    code, output = inspect(era, "--method", "tools/list", "--strict")

    assert code == 0, output
    assert sorted(tool["name"] for tool in json.loads(output)["tools"]) == TOOLS


@eras
def test_T3_inspector_calls_a_tool(era: Era, inspect: Inspect) -> None:
    call = "--method", "tools/call", "--tool-name", "add_note"
    code, output = inspect(era, *call, "--tool-arg", "text=From the Inspector")

    assert code == 0, output
    assert json.loads(output)["structuredContent"]["text"] == "From the Inspector"


@eras
def test_E1_inspector_is_told_that_a_tool_failed(era: Era, inspect: Inspect) -> None:
    call = "--method", "tools/call", "--tool-name", "search_notes"
    code, output = inspect(era, *call, "--tool-arg", "query=x", "limit=0")

    assert code == TOOL_ERROR, output
    assert json.loads(output)["isError"] is True
    assert "limit must be greater than or equal to 1" in output
