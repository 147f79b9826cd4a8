"""The tool of all contenders, as the user of a generated server writes it; and one that may notify its client."""

from mcp.server.mcpserver import Context
from pydantic import BaseModel

from ..server import server


class Echo(BaseModel):
    """What was said."""

    query: str
    limit: int


@server.tool()
async def echo(query: str, limit: int) -> Echo:
    """Say it again."""
    return Echo(query=query, limit=limit)


@server.tool()
async def echo_told(query: str, limit: int, context: Context) -> Echo:
    """Say it again, as a tool that could report its progress: its answers need a stream."""
    return Echo(query=query, limit=limit)
