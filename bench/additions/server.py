"""Stands for a project's own `server.py`, so that the tools beside it are typed here as they are there."""

from mcp_chassis import Server

server = Server("stands-in")
