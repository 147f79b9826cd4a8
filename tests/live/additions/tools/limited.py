"""Tools with limits of their own, and one that runs for as long as a test wants."""

import contextlib

import anyio

from mcp_chassis import PerDay, Rate

from ..server import server


@server.tool(limit=Rate(5, burst=2), budget=PerDay(3), cost=2, concurrency=1, timeout=20)
async def run_report() -> str:
    """Declare everything that can be declared."""
    return "reported"


@server.tool(limit=Rate(300, burst=40, per=60), budget=PerDay(1000), cost=3)
async def weigh() -> str:
    """Cost more than one unit."""
    return "weighed"


@server.tool(timeout=60)
async def hold(port: int) -> str:
    """Run until whoever listens on this port hangs up; a tool that is cancelled hangs up itself."""
    async with await anyio.connect_tcp("127.0.0.1", port) as gate:
        with contextlib.suppress(anyio.EndOfStream):
            await gate.receive()
        return "held"
