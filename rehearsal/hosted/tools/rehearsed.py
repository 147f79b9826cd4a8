"""A tool that writes down that it ran, so that lost calls and calls done twice can be told apart."""

import os

import anyio
from mcp.server.mcpserver import Context

from ..server import server

# Appended to by every replica; a line this short is written whole.
_record = os.open(os.environ["REHEARSAL_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@server.tool()
async def rehearse(mark: str, seconds: float, steps: int, context: Context) -> str:
    """Write the mark down, take the time told, report progress after each step, and give the mark back."""
    os.write(_record, f"{mark}\n".encode())
    for step in range(1, steps + 1):
        await anyio.sleep(seconds / steps)
        await context.report_progress(step, steps)
    return mark
