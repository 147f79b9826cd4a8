"""The official SDK as its quickstart runs it, with a tool like the generated server's: `python -m bench.bare PORT`."""

from __future__ import annotations

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("bare")


@server.tool()
async def search_notes(query: str, limit: int = 10) -> list[str]:
    """Find notes by their text, newest first."""
    return []


if __name__ == "__main__":
    server.run(transport="streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
