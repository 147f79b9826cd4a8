"""A project with a database made real, and the PostgreSQL that its servers share."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import httpx2

from tests.chassis.client import Client, Era
from tests.live.project import DEADLINE, Project, ServerProcess, folder
from tests.render.support import Answers, by_copier, succeed
from tests.support.postgres import OWNER, SERVER, Postgres, running

STORED: Answers = (("database", "postgres"),)
ADDITIONS = Path(__file__).parent / "additions" / "data"
TENANTS = ("acme", "globex")


def make_stored(target: Path, *, developed: bool = False) -> Project:
    """Copy the project of somebody who wants a database to `target`, and install it.

    Args:
        target: A path where nothing is.
        developed: Whether it gets the developer's tools, and no tools of ours.
    """
    shutil.copytree(by_copier(STORED), target)
    project = Project(target, "acme-notes")
    if not developed:
        for module in ADDITIONS.glob("*.py"):
            shutil.copy(module, project.source / "tools")
    how = [] if developed else ["--no-dev", "--package", "acme-notes", "--package", "mcp-chassis", "--all-extras"]
    succeed("uv", "sync", "--quiet", *how, cwd=target)
    return project


@functools.cache
def stored_project() -> Project:
    """Return a project with a database and tools of ours; nobody may change it."""
    return make_stored(folder() / "project")


def new_postgres(stack: ExitStack) -> Postgres:
    """Return a PostgreSQL that runs until `stack` closes; its user may enter the folder above its own."""
    above = Path(tempfile.mkdtemp(prefix="mcp-chassis-postgres-"))
    above.chmod(0o755)
    stack.callback(shutil.rmtree, above, ignore_errors=True)
    return stack.enter_context(running(above / "server"))


@functools.cache
def shared_postgres() -> Postgres:
    """Return a PostgreSQL that this worker's tests share, migrated; they must leave it running."""
    stack = ExitStack()
    atexit.register(stack.close)
    postgres = new_postgres(stack)
    upgrade(stored_project(), postgres)
    return postgres


def variables(postgres: Postgres, **more: str) -> dict[str, str]:
    """Return what a server of both roles is given."""
    urls = {"MCP_DATABASE_URL": postgres.url(SERVER), "MCP_DATABASE_MIGRATION_URL": postgres.url(OWNER)}
    return urls | {f"MCP_{name.upper()}": value for name, value in more.items()}


def upgrade(project: Project, postgres: Postgres) -> None:
    """Migrate as an operator does."""
    done = project.run("ops", "db", "upgrade", given=variables(postgres))
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Keyring:
    """A key for a caller of each tenant."""

    file: Path = field(default_factory=lambda: folder() / "keys.json")
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, str]:
        """What a server needs to know them."""
        return {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(self.file)}

    def header(self, tenant: str) -> list[tuple[str, str]]:
        """What a caller of `tenant` sends."""
        return [("Authorization", f"Bearer {self.keys[tenant]}")]


@functools.cache
def keyring() -> Keyring:
    """Return keys that the operator's command made."""
    ring = Keyring()
    for tenant in TENANTS:
        asked = ("ops", "keys", "create", "--caller", f"agent-{tenant}", "--tenant", tenant, "--scope", "*")
        done = stored_project().run(*asked, given=ring.given)
        assert done.returncode == 0, done.stderr
        ring.keys[tenant] = done.stdout.strip()
    return ring


def port_of(server: ServerProcess) -> int:
    """Return where it listens."""
    found = urlsplit(server.url).port
    assert found is not None
    return found


async def client_of(server: ServerProcess, era: Era, tenant: str | None = None) -> Client:
    """Return a client that may call; with a tenant it sends that tenant's key."""
    client = Client(port_of(server), era, headers=keyring().header(tenant) if tenant else [])
    await client.open()
    return client


def health_of(server: ServerProcess, path: str = "/health") -> tuple[int, Any]:
    """Return status and JSON of `/health`."""
    answer = httpx2.get(f"http://127.0.0.1:{port_of(server)}{path}", trust_env=False)
    return answer.status_code, json.loads(answer.text)


def metrics_of(server: ServerProcess) -> Mapping[str, float]:
    """Return every sample of `/metrics` under its name and labels."""
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port_of(server)}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def until(true: Callable[[], bool], what: str) -> None:
    """Return as soon as `true` is: for what no event tells, a state of another process."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.02)


def busy(postgres: Postgres) -> int:
    """Count the server's connections that are in a transaction."""
    return int(
        postgres.ask(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{SERVER}' AND state <> 'idle'") or 0
    )


def connections(postgres: Postgres) -> int:
    """Count the server's connections."""
    return int(postgres.ask(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{SERVER}'"))
