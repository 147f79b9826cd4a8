"""What the tests share: the official client, connected to your server in this process."""

{% if cookiecutter.database == "postgres" %}
import os
{% endif %}
from importlib import import_module
from pathlib import Path

import pytest

from mcp_chassis import Server

PACKAGE = next(path.parent.name for path in Path(__file__).parent.parent.glob("src/*/server.py"))


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


{% if cookiecutter.database == "postgres" %}
@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a database of its own; CI gives PostgreSQL, where tenants are kept apart."""
    if "MCP_DATABASE_URL" not in os.environ:
        monkeypatch.setenv("MCP_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/data.db")


{% endif %}
@pytest.fixture
def server() -> Server:
    """Return your server."""
    found = import_module(f"{PACKAGE}.server").server
    assert isinstance(found, Server)
    return found
