"""The tool that every server has: harmless, and able to show whether streaming works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp_types import ToolAnnotations
from pydantic import Field

if TYPE_CHECKING:
    from mcp_chassis.server import Server

NAME = "ping"


async def ping(
    context: Context,
    steps: Annotated[int, Field(ge=0, le=20, description="Progress events to send before the answer")] = 0,
    interval: Annotated[float, Field(ge=0, le=5, description="Seconds between two of them")] = 0.2,
) -> str:
    """Answer "pong". With steps, report progress first, so that a probe can see events arrive one by one."""
    for step in range(1, steps + 1):
        await context.report_progress(step, steps)
        await anyio.sleep(interval)
    return "pong"


def is_ours(tool: Mapping[str, Any]) -> bool:
    """Tell whether an entry of a tool list is this tool: a stranger's `ping` may do anything."""
    schema = tool.get("inputSchema")
    known = schema.get("properties") if isinstance(schema, dict) else None
    return tool.get("name") == NAME and isinstance(known, dict) and {"steps", "interval"} == known.keys()


def register(server: Server) -> None:
    """Give `server` its ping tool."""
    server.add_tool(ping, NAME, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
