"""For your tests: a real client against your server, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp import Client

from mcp_chassis.environment import load
from mcp_chassis.request import LOCAL, Caller
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings


@asynccontextmanager
async def connect(server: Server, *, caller: Caller = LOCAL) -> AsyncIterator[Client]:
    """Connect the official client to `server`; everything but HTTP and limits is the real thing.

    Args:
        server: Your server.
        caller: Whom the client speaks for.
    """
    settings, _ = load(Settings)
    server.prepare(settings)
    try:
        async with Client(server.speaking_for(caller)) as client:
            yield client
    finally:
        await server.close()
