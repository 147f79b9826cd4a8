"""Development needs no set-up: a file that migrates itself and holds one tenant (A9)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.chassis.client import ERAS, Client, Era
from tests.live.data import client_of, health_of, keyring, metrics_of, stored_project
from tests.live.project import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-data-desk")]


@pytest.fixture(scope="module")
def file(_apart: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the data is."""
    return tmp_path_factory.mktemp("data") / "data.db"


def serving(file: Path) -> ServerProcess:
    """Return a development server with keys."""
    return ServerProcess(stored_project(), given=keyring().given | {"MCP_DATABASE_URL": f"sqlite+aiosqlite:///{file}"})


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[ServerProcess]:
    """Return a server whose file belongs to acme."""
    with serving(file) as process:
        yield process


async def called(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Return a tool's result."""
    return (await client.call(tool, arguments)).result()


def check_refused(result: dict[str, Any]) -> None:
    """Assert that a second tenant is told why."""
    assert result["isError"]
    assert result["_meta"]["errorCode"] == "tool_failure"
    assert "SQLite cannot keep tenants apart" in result["content"][0]["text"]
    assert "use PostgreSQL" in result["content"][0]["text"]


@pytest.mark.parametrize("era", ERAS)
async def test_A9_second_tenant_is_refused_on_sqlite(era: Era, server: ServerProcess, file: Path) -> None:
    first, second = await client_of(server, era, "acme"), await client_of(server, era, "globex")

    added = await called(first, "add_note", text=f"in {era}")
    refused = [await called(second, "add_note", text="mine"), await called(second, "search_notes", query="in")]
    found = await called(first, "search_notes", query=f"in {era}")

    assert not added.get("isError"), added
    for result in refused:
        check_refused(result)
    assert [note["text"] for note in found["structuredContent"]["result"]] == [f"in {era}"]
    with closing(sqlite3.connect(file)) as data:
        assert {tenant for (tenant,) in data.execute("SELECT tenant FROM notes")} == {"acme"}


async def test_A9_file_remembers_its_tenant_when_the_server_starts_again(server: ServerProcess, file: Path) -> None:
    await called(await client_of(server, "stateless", "acme"), "add_note", text="kept over a restart")

    with serving(file) as again:
        check_refused(await called(await client_of(again, "stateless", "globex"), "search_notes", query="kept"))
        found = await called(await client_of(again, "stateless", "acme"), "search_notes", query="kept over")

    assert [note["text"] for note in found["structuredContent"]["result"]] == ["kept over a restart"]


async def test_A9_development_migrates_its_file_by_itself_and_is_healthy(server: ServerProcess, file: Path) -> None:
    with closing(sqlite3.connect(file)) as data:
        assert data.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
    status, told = health_of(server)

    assert (status, told["checks"]["database"]["status"]) == (200, "healthy")


async def test_O1_statements_on_sqlite_are_in_the_log_line(server: ServerProcess) -> None:
    await called(await client_of(server, "stateless", "acme"), "search_notes", query="anything")

    line = server.wait_for("tool_called", tool_name="search_notes", status="ok")
    assert {call["service"] for call in line["downstream_calls"]} == {"database"}
    assert metrics_of(server)['mcp_downstream_duration_seconds_count{service="database"}'] > 0
    assert metrics_of(server)["mcp_database_connections_in_use"] == 0
