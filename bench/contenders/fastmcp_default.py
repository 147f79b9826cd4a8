"""FastMCP as its documentation runs it over HTTP: a port is given, and that it asks for no newer version of itself."""

import sys

from fastmcp import FastMCP
from pydantic import BaseModel

mcp = FastMCP("Bench")


class Echo(BaseModel):
    """What was said."""

    query: str
    limit: int


@mcp.tool
async def echo(query: str, limit: int) -> Echo:
    """Say it again."""
    return Echo(query=query, limit=limit)


if __name__ == "__main__":
    mcp.run(transport="http", port=int(sys.argv[1]))
