"""What the tests of pinned resources share: an authority, an origin, an empty environment, a log in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.identity.conftest import _logging as _logging
from tests.identity.conftest import log as log
from tests.render.conftest import _apart as _apart
from tests.resources.internet import PUBLIC, Internet
from tests.resources.internet import internet as internet
from tests.resources.origin import NAMES, Authority, Origin

ANSWERS = {"public_url": "https://notes.example.com", "tool_timeout": "30"}


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: Authority) -> None:
    """Give what a rendered project would hold, and nothing of the person or the machine but trust in the authority."""
    strangers = [name for name in os.environ if name.upper().startswith("MCP_") or name.lower().endswith("_proxy")]
    for name in strangers:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setattr("mcp_chassis.settings._answer", ANSWERS.__getitem__)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority that everybody here trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def origin(authority: Authority) -> Iterator[Origin]:
    """Run an origin on loopback."""
    found = Origin(authority.server(NAMES))
    with found.listening():
        yield found


@pytest.fixture
def public(internet: Internet, origin: Origin) -> Origin:
    """Return the origin as files.example.com of the internet."""
    internet.place("files.example.com", origin.port, PUBLIC)
    return origin
