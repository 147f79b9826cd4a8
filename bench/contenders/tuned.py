"""The official SDK with the public settings that make it faster: one JSON answer, few log lines; uvicorn finds uvloop
and httptools, which are installed beside it. Sessions stay: without them the SDK makes a server for each call.
"""

import sys

import uvicorn
from mcp.server import MCPServer
from pydantic import BaseModel

mcp = MCPServer("Bench", log_level="WARNING")


class Echo(BaseModel):
    """What was said."""

    query: str
    limit: int


@mcp.tool()
async def echo(query: str, limit: int) -> Echo:
    """Say it again."""
    return Echo(query=query, limit=limit)


if __name__ == "__main__":
    uvicorn.run(mcp.streamable_http_app(json_response=True), port=int(sys.argv[1]), access_log=False)
