"""The official SDK as its quickstart runs it: nothing but a port is given."""

import sys

from mcp.server import MCPServer
from pydantic import BaseModel

mcp = MCPServer("Bench")


class Echo(BaseModel):
    """What was said."""

    query: str
    limit: int


@mcp.tool()
async def echo(query: str, limit: int) -> Echo:
    """Say it again."""
    return Echo(query=query, limit=limit)


if __name__ == "__main__":
    mcp.run(transport="streamable-http", port=int(sys.argv[1]))
