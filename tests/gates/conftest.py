"""One rendered project, installed as its developers have it, and one server of it, for every gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring
from tests.live.project import Project, ServerProcess, folder, make_real
from tests.render.conftest import _apart as _apart
from tests.render.support import succeed


@dataclass(frozen=True)
class Running:
    """A server of the rendered project that wants keys.

    Args:
        project: Whose it is.
        process: What runs.
        url: The endpoint.
        tokens: Of `all`, who may do everything, `probe`, and `ending`, a probe whose key ends in two days.
        files: The same, each in a file.
    """

    project: Project
    process: ServerProcess
    url: str
    tokens: dict[str, str]
    files: dict[str, Path]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(scope="session")
def project(_apart: None) -> Project:
    """Return the default project with its development tools; a test that changes a file puts it back."""
    made = make_real(folder() / "acme-notes")
    succeed("uv", "sync", "--quiet", cwd=made.root)
    return made


@pytest.fixture(scope="session")
def running(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return the server of the project."""
    place = tmp_path_factory.mktemp("keys")
    tokens = {}
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    with FileKeyring(place / "keys.json").editing() as kept:
        for name, scope, expires in (("all", "*", None), ("probe", "probe", None), ("ending", "probe", soon)):
            tokens[name], record = keys.create(name, scopes=(scope,), expires=expires)
            kept[record.id] = record
            (place / name).write_text(tokens[name] + "\n", encoding="utf-8")
    given = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(place / "keys.json")}
    with ServerProcess(project, given=given) as process:
        yield Running(project, process, process.url, tokens, {name: place / name for name in tokens})
