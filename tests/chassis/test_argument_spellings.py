"""E4, M8: how JSON spells a type, and what kinds of function can be a tool."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from mcp.server.mcpserver import Context
from mcp_types import TextContent

from mcp_chassis import Caller, Server
from mcp_chassis.testing import connect
from tests.chassis.test_arguments import server_of

pytestmark = pytest.mark.anyio

FORMATS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "date": (date, ["2026-11-21"], ["21.11.2026", "2026-13-01", 5, True]),
    "datetime": (datetime, ["2026-11-21T10:00:00Z", "2026-11-21T10:00:00.5+02:00"], ["yesterday", [], {}]),
    "time": (time, ["10:00:00", "10:00:00Z"], ["25:00:00", {}]),
    "duration": (timedelta, ["P1DT2H", "PT0.5S"], ["soon", []]),
    "uuid": (UUID, ["12345678-1234-5678-1234-567812345678"], ["1234", 5]),
    "decimal": (Decimal, ["1.50", 2, 2.5], ["many", None, True]),
    "float": (float, [1, 1.0, -3, 10**25], ["1", None, True]),
    "int": (int, [1, 1.0, -3.0, 10**25], ["1", 1.5, None, True]),
    "bytes": (bytes, ["text"], [5, None]),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, good, _) in FORMATS.items() for value in good])
def test_E4_json_spelling_of_a_type_is_accepted(name: str, value: Any) -> None:
    server, schema = server_of(FORMATS[name][0])
    tool = server._tool_manager.get_tool("take")

    assert tool is not None
    assert Draft202012Validator(schema).is_valid({"value": value})
    assert isinstance(tool.fn_metadata.validate_arguments({"value": value})["value"], FORMATS[name][0])


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, _, bad) in FORMATS.items() for value in bad])
async def test_E4_other_spellings_are_refused_with_field_and_rule(name: str, value: Any) -> None:
    server, _ = server_of(FORMATS[name][0])

    async with connect(server) as client:
        refused = await client.call_tool("take", {"value": value})

    assert refused.is_error
    assert isinstance(refused.content[0], TextContent)
    assert refused.content[0].text.startswith("Invalid arguments: value")


async def test_E4_whole_float_reaches_the_tool_as_the_integer_it_declared() -> None:
    server, seen = Server("arguments"), []

    @server.tool()
    async def take(count: int, share: float, anything: Any) -> str:
        seen.extend([count, share, anything])
        return "taken"

    async with connect(server) as client:
        await client.call_tool("take", {"count": 5.0, "share": 2, "anything": "5.0"})

    assert seen == [5, 2.0, "5.0"]
    assert [type(value) for value in seen] == [int, float, str]


async def test_E4_schema_shows_neither_context_nor_caller_and_admits_no_strangers() -> None:
    server = Server("arguments")

    @server.tool()
    async def take(value: int, context: Context, caller: Caller) -> str:
        return caller.id

    async with connect(server) as client:
        tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        result = await client.call_tool("take", {"value": 1})

    assert set(tools["take"]["properties"]) == {"value"}
    assert tools["take"]["additionalProperties"] is False
    assert result.structured_content == {"result": "local"}


class Greeter:
    """An object whose methods are tools."""

    async def hello(self, name: str, caller: Caller) -> str:
        """Greet."""
        return f"hello {name} from {caller.id}"

    def hi(self, caller: Caller, name: str = "you") -> str:
        """Greet without waiting."""
        return f"hi {name} from {caller.id}"


async def test_M8_methods_sync_functions_and_lambdas_can_be_tools() -> None:
    server = Server("arguments")
    server.add_tool(Greeter().hello)
    server.add_tool(Greeter().hi)
    server.add_tool(lambda name: f"oi {name}", "oi")

    async with connect(server, caller=Caller("bob")) as client:
        said = [await client.call_tool(tool, {"name": "Ann"}) for tool in ("hello", "hi", "oi")]

    texts = [result.content[0].text for result in said if isinstance(result.content[0], TextContent)]
    assert texts == ["hello Ann from bob", "hi Ann from bob", "oi Ann"]
