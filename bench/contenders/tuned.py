"""The official SDK with every public setting that makes it fast: one JSON answer, no session; uvicorn finds uvloop and
httptools, which are installed beside it, and writes no access log.
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
    app = mcp.streamable_http_app(json_response=True, stateless_http="sessions" not in sys.argv)
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
