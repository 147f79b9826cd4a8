"""Tools for sessions that are forwarded: what belongs to no request, and calls that can be counted."""

import anyio
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from mcp_chassis import Caller

from ..server import server


class Known(BaseModel):
    """What a tool is told of its caller."""

    id: str
    tenant: str
    scopes: list[str]


@server.tool()
async def announce(text: str, context: Context) -> str:
    """Tell the session's own stream, not that of this call."""
    await context.session.send_log_message("info", text)
    return "announced"


@server.tool()
async def introduce(caller: Caller) -> Known:
    """Tell who calls."""
    return Known(id=caller.id, tenant=caller.tenant, scopes=sorted(caller.scopes))


@server.tool(timeout=60)
async def announce_and_hold(port: int, context: Context) -> str:
    """Report progress, then run until whoever listens on this port hangs up."""
    async with await anyio.connect_tcp("127.0.0.1", port) as gate:
        await context.report_progress(1, 2)
        try:
            await gate.receive()
        except anyio.EndOfStream:
            return "held"
    return "told"
