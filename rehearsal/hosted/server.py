"""The official server as its quickstart makes it; in a rendered project, its own `server.py` stands here."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("stock")
