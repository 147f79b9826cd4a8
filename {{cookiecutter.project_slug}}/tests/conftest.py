"""What the tests share: the official client, connected to your server in this process."""

from importlib import import_module
from pathlib import Path

import pytest

from mcp_chassis import Server

PACKAGE = next(path.parent.name for path in Path(__file__).parent.parent.glob("src/*/server.py"))


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture
def server() -> Server:
    """Return your server."""
    found = import_module(f"{PACKAGE}.server").server
    assert isinstance(found, Server)
    return found
