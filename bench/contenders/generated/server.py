"""Stands for the project's own `server.py`, so that the tool beside it is typed here as it is there."""

from mcp_chassis import Server

server = Server("stands-in")
