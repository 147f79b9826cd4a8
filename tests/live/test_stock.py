"""A module written for the official SDK runs on the chassis as it stands, with the same results (M8)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import ElicitRequestParams, ElicitResult, TextContent, Tool

from tests.live.curl import ERAS, Era
from tests.live.project import ADDITIONS, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live")]

ITEM = {"name": "pen", "price": 2.5, "tags": ["blue"]}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("stock_text", {"word": "ho"}),
    ("stock_text", {"word": "ho", "times": 3}),
    ("stock_number", {"a": 1, "b": 2}),
    ("stock_flag", {"choice": "on"}),
    ("stock_nothing", {}),
    ("stock_list", {"stop": 3}),
    ("stock_list", {"stop": 0}),
    ("stock_dictionary", {"pairs": {"a": 1, "b": 2}}),
    ("stock_model", {"item": ITEM}),
    ("stock_model", {"item": {"name": "ink"}, "discount": 0.5}),
    ("stock_models", {"items": [ITEM, {"name": "ink"}]}),
    ("stock_typed_dictionary", {"prices": [1.5, 2]}),
    ("stock_dataclass", {"x": 3}),
    ("stock_image", {}),
    ("stock_mixed", {}),
    ("stock_result", {"text": "by hand"}),
    ("stock_plain", {"data": {"nested": [1, None, "x"]}}),
    ("stock-renamed", {}),
    ("stock_context", {"steps": 3}),
    ("stock_question", {"thing": "the pen"}),
]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MCPServer[Any]]:
    """Return the official server with the very file that the project has."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "stock_host" / "tools").mkdir(parents=True)
    (folder / "stock_host" / "tools" / "stock.py").write_bytes((ADDITIONS / "stock.py").read_bytes())
    (folder / "stock_host" / "server.py").write_text(
        'from mcp.server.mcpserver import MCPServer\n\nserver = MCPServer("stock")\n', encoding="utf-8"
    )
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("stock_host.tools.stock")
        server = importlib.import_module("stock_host.server").server
        assert type(server) is MCPServer
        yield server
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.startswith("stock_host")]:
            del sys.modules[name]


@pytest.fixture(params=ERAS, ids=str)
async def both(
    request: pytest.FixtureRequest, stock: MCPServer[Any], everything: ServerProcess
) -> AsyncIterator[tuple[Client, Client]]:
    """Return a client of the official server and one of the project's, in one era."""
    era: Era = request.param

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with (
        Client(stock, mode=era.mode, elicitation_callback=answer) as theirs,
        Client(everything.url, mode=era.mode, elicitation_callback=answer) as ours,
    ):
        yield theirs, ours


def lenient(schema: Any) -> Any:
    """Return a schema without what the chassis adds: no unknown arguments."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if (key, value) != ("additionalProperties", False)}
    return {key: lenient(value) for key, value in kept.items()}


def published(tool: Tool) -> dict[str, Any]:
    """Return what a client is told of a tool."""
    told = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**told, "inputSchema": lenient(told["inputSchema"])}


async def test_M8_every_stock_tool_is_published_as_it_was(both: tuple[Client, Client]) -> None:
    theirs, ours = [
        {tool.name: published(tool) for tool in (await client.list_tools()).tools if tool.name.startswith("stock")}
        for client in both
    ]

    assert len(theirs) == len({name for name, _ in CALLS} | {"stock_failure"})
    assert ours == theirs


async def outcome(client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a call gave the client."""
    reported: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    result = await client.call_tool(name, arguments, progress_callback=note)
    return {
        "error": result.is_error,
        "data": result.structured_content,
        "content": result.content,
        "by": (result.meta or {}).get("by"),
        "progress": reported,
    }


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
async def test_M8_stock_tool_answers_as_it_did(
    name: str, arguments: dict[str, Any], both: tuple[Client, Client]
) -> None:
    theirs, ours = [await outcome(client, name, arguments) for client in both]

    assert ours == theirs
    assert ours["error"] is False
    assert len(ours["progress"]) == arguments.get("steps", 0)


async def test_M8_failure_of_a_stock_tool_is_told_in_its_authors_words_alone(both: tuple[Client, Client]) -> None:
    theirs, ours = [await outcome(client, "stock_failure", {"reason": "closed"}) for client in both]

    assert theirs["error"] is ours["error"] is True
    assert theirs["content"] == [TextContent(type="text", text="Error executing tool stock_failure: cannot: closed")]
    assert ours["content"] == [TextContent(type="text", text="cannot: closed")]
