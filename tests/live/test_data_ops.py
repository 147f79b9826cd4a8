"""`ops db` and the start: what stops them says what to do (S1, A9)."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.live.data import shared_postgres, stored_project, variables
from tests.live.project import Project, default_project
from tests.render.support import succeed
from tests.support.postgres import OWNER, SERVER, Postgres

pytestmark = pytest.mark.xdist_group("live-data-desk")

NOWHERE = "postgresql://notes_owner:s3cret-9a@127.0.0.1:1/notes"
PRODUCTION = {
    "MCP_ENVIRONMENT": "production",
    "MCP_AUTH": "jwt",
    "MCP_JWT_ISSUER": "https://login.example.com",
    "MCP_SINGLE_REPLICA": "true",
}


@pytest.fixture(scope="module")
def postgres(_apart: None) -> Postgres:
    """Return the PostgreSQL of this worker."""
    return shared_postgres()


@pytest.fixture(scope="module")
def stored(postgres: Postgres) -> Project:
    """Return the project with a database, migrated."""
    return stored_project()


@pytest.fixture
def place(stored: Project, tmp_path: Path) -> Path:
    """Return a folder with migrations that a test may change."""
    shutil.copytree(stored.root / "migrations", tmp_path / "migrations")
    return tmp_path


def beside(postgres: Postgres, url: str) -> str:
    """Return the address of an empty database of the same owner."""
    if postgres.ask("SELECT count(*) FROM pg_database WHERE datname = 'beside'") == "0":
        postgres.ask(f"CREATE DATABASE beside OWNER {OWNER}")
    return f"{url.removesuffix('/notes')}/beside"


def told(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return what a command that must fail says, in one line and without a traceback or a secret."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    return " ".join(done.stderr.split())


def test_D6_upgrade_may_be_repeated_and_the_owner_owns(stored: Project, postgres: Postgres) -> None:
    done = stored.run("ops", "db", "upgrade", given=variables(postgres))

    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "upgrade: done")
    assert postgres.ask("SELECT tableowner FROM pg_tables WHERE tablename = 'notes'") == OWNER


def test_D6_current_shows_the_revision(stored: Project, postgres: Postgres) -> None:
    done = stored.run("ops", "db", "current", given=variables(postgres))

    assert (done.returncode, done.stdout.split()) == (0, ["0001", "(head)"])


def test_D6_revision_writes_a_migration_that_formatter_and_upgrade_accept(
    stored: Project, postgres: Postgres, place: Path
) -> None:
    other = {name: beside(postgres, url) for name, url in variables(postgres).items()}

    done = stored.run("ops", "db", "revision", "--message", "add a title", given=other, cwd=place)

    assert done.returncode == 0, done.stderr
    (written,) = [path for path in (place / "migrations").glob("*.py") if path.name != "0001_notes.py"]
    assert written.name.endswith("_add_a_title.py")
    assert written.name in done.stdout
    assert 'down_revision = "0001"' in written.read_text(encoding="utf-8")
    succeed(sys.executable, "-m", "ruff", "format", "--check", "--no-cache", written, cwd=stored.root)
    upgraded = stored.run("ops", "db", "upgrade", given=other, cwd=place)
    assert upgraded.returncode == 0, upgraded.stderr
    assert postgres.ask("SELECT version_num FROM alembic_version", database="beside") in written.name


def test_D6_server_role_cannot_migrate(stored: Project, postgres: Postgres) -> None:
    given = {"MCP_DATABASE_URL": beside(postgres, postgres.url(SERVER))}

    said = told(stored.run("ops", "db", "upgrade", given=given), 1)

    assert "permission denied" in said


def test_D6_silent_postgresql_is_named_without_its_password(stored: Project) -> None:
    said = told(stored.run("ops", "db", "upgrade", given={"MCP_DATABASE_URL": NOWHERE}), 1)

    assert "127.0.0.1" in said
    assert "Connect" in said


def test_D6_missing_database_is_named(stored: Project, postgres: Postgres) -> None:
    url = f"{postgres.url(OWNER)}-gone"

    said = told(stored.run("ops", "db", "upgrade", given={"MCP_DATABASE_URL": url}), 1)

    assert 'database "notes-gone" does not exist' in said


def test_D6_unknown_revision_is_a_sentence(stored: Project, postgres: Postgres) -> None:
    said = told(stored.run("ops", "db", "upgrade", "0099", given=variables(postgres)), 1)

    assert "0099" in said


def test_D6_missing_folder_says_where_to_run_it(stored: Project, postgres: Postgres, tmp_path: Path) -> None:
    said = told(stored.run("ops", "db", "upgrade", given=variables(postgres), cwd=tmp_path), 1)

    assert "there is no folder migrations/ here: run this in the root of the project" in said


def test_D6_project_without_a_database_has_nothing_for_one_and_says_how_to_get_it() -> None:
    project = default_project()
    asked = [str(project.python), "-c", f"from {project.package}.server import server; server.database()"]

    command = project.run("ops", "db", "upgrade")
    used = subprocess.run(asked, cwd=project.root, capture_output=True, text=True, check=False)

    assert (command.returncode, "No such command 'db'" in command.stderr) == (2, True)
    assert "copier update --data database=postgres" in used.stderr


SQLITE = {"MCP_DATABASE_URL": "sqlite+aiosqlite:///data.db"}


@pytest.mark.parametrize(
    ("command", "more", "rule"),
    [
        ("serve", {}, "is required in production"),
        ("serve", SQLITE, "must be PostgreSQL in production"),
        ("ops db upgrade", {}, "is required"),
    ],
    ids=["serve without", "serve with SQLite", "migrate without"],
)
def test_A9_production_without_postgresql_is_refused(
    command: str, more: dict[str, str], rule: str, stored: Project, place: Path
) -> None:
    said = told(stored.run(*command.split(), given=PRODUCTION | more, cwd=place), 78)

    assert "1 problem stops this server: MCP_DATABASE_URL" in said
    assert rule in said
    assert not (place / "data.db").exists()


def test_D6_owner_alone_is_refused_because_the_server_would_be_granted_nothing(
    stored: Project, postgres: Postgres
) -> None:
    given = {"MCP_DATABASE_MIGRATION_URL": postgres.url(OWNER)}

    assert "MCP_DATABASE_URL is required" in told(stored.run("ops", "db", "upgrade", given=given), 78)


def test_D6_development_upgrades_its_file(stored: Project, place: Path) -> None:
    done = stored.run("ops", "db", "upgrade", "0001", cwd=place)

    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(place / "data.db")) as file:
        assert file.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
