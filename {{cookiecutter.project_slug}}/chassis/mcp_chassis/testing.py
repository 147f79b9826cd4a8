"""For your tests: a real client against your server, in this process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import cache
from unittest import mock

from mcp import Client

from mcp_chassis.environment import load
from mcp_chassis.request import LOCAL, Caller
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings


@asynccontextmanager
async def connect(server: Server, *, caller: Caller = LOCAL) -> AsyncIterator[Client]:
    """Connect the official client to `server`; everything but HTTP and limits is the real thing.

    A server with a database gets that of `MCP_DATABASE_URL`, or a SQLite file that lasts as long as this process.

    Args:
        server: Your server.
        caller: Whom the client speaks for.
    """
    with _database_of(caller.tenant) if server.has_database else nullcontext():
        settings, _ = load(Settings)
        server.prepare(settings)
        try:
            async with Client(server.speaking_for(caller)) as client:
                yield client
        finally:
            await server.close()


@contextmanager
def _database_of(tenant: str) -> Iterator[None]:
    # A file for each tenant, because SQLite cannot keep two apart in one.
    name = hashlib.sha256(tenant.encode()).hexdigest()[:16]
    given = {"MCP_DATABASE_URL": f"sqlite+aiosqlite:///{_folder().name}/{name}.db"}
    with mock.patch.dict(os.environ, given | dict(os.environ)):
        yield


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mcp-chassis-")
