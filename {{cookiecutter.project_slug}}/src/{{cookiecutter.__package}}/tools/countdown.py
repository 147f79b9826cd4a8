"""A tool that takes its time and says how far it is."""

from typing import Annotated

import anyio
from mcp.server.mcpserver import Context
from pydantic import Field

from ..server import server

Seconds = Annotated[float, Field(ge=0, le=60, description="How long to count")]
Steps = Annotated[int, Field(ge=1, le=100, description="How many events to send")]


@server.tool()
async def countdown(seconds: Seconds, steps: Steps, context: Context) -> str:
    """Count down, reporting progress after each step."""
    for step in range(1, steps + 1):
        await anyio.sleep(seconds / steps)
        await context.report_progress(step, steps, f"{steps - step} to go")
    return f"counted {steps} steps"
