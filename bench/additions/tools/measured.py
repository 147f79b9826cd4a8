"""Tools that the bench adds to a project: events that tell when they were sent, and as many tools as it asks for."""

import os
import time

import anyio
from mcp.server.mcpserver import Context

from ..server import server


@server.tool()
async def tick(events: int, pace: float, context: Context) -> str:
    """Report progress at once and then every `pace` seconds; each report says when it was sent."""
    begun = time.monotonic()
    for number in range(events):
        await anyio.sleep(max(0.0, begun + number * pace - time.monotonic()))
        await context.report_progress(number + 1, events, repr(time.monotonic()))
    return "ticked"


async def look_up(name: str, limit: int = 10, exact: bool = False) -> list[str]:
    """Return what is known by this name: one of many tools that are alike."""
    return [name][:limit] if exact else []


for place in range(int(os.environ.get("BENCH_TOOLS", "0"))):
    server.add_tool(look_up, f"look_up_{place}")
