"""Servers that count together: one process, or replicas that share a Redis; and the keys of their callers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring
from tests.live.project import Project, ServerProcess
from tests.support.redis import Redis, running

NAMES: Final = ("ann", "bob", "eve", "zoe")
"""Callers who may do everything."""
PROBE: Final = "probe"


class Keys:
    """A keys file for the callers of these tests.

    Args:
        folder: Where the file is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self._texts: dict[str, str] = {}
        with FileKeyring(self.file).editing() as kept:
            for name, scope in [*((name, "*") for name in NAMES), (PROBE, PROBE)]:
                self._texts[name], record = keys.create(name, scopes=(scope,))
                kept[record.id] = record

    def headers(self, caller: str) -> dict[str, str]:
        """Return what proves who calls."""
        return {"Authorization": f"Bearer {self._texts[caller]}"}


@dataclass(frozen=True)
class Fleet:
    """Replicas of one server."""

    project: Project
    servers: list[ServerProcess]
    keys: Keys
    variables: dict[str, str]
    redis: Redis | None

    @property
    def urls(self) -> list[str]:
        """Where they serve MCP."""
        return [server.url for server in self.servers]

    def metric(self, name: str) -> float:
        """Return the sum over all replicas of one series, such as `mcp_store_up`; 0 where there is none yet."""
        pages = [httpx2.get(url.removesuffix("/mcp") + "/metrics").text for url in self.urls]
        lines = [line.rpartition(" ") for page in pages for line in page.splitlines()]
        return sum(float(value) for series, _, value in lines if series == name)

    def refusals(self, limit: str) -> float:
        """Return how many refusals the metrics show for one limit."""
        return self.metric(f'mcp_refusals_total{{limit="{limit}"}}')

    def count(self, event: str, **fields: object) -> int:
        """Return how many lines of `event` with these fields all replicas have written until now."""
        wanted = {"event": event, **fields}
        for server, url in zip(self.servers, self.urls, strict=True):
            # Their output is read elsewhere, in order: once this refusal is in it, so is everything before.
            marker = secrets.token_hex(8)
            httpx2.post(url, headers={"X-Request-ID": marker, "Content-Type": "application/json"}, content="{}")
            server.wait_for("request_refused", request_id=marker, http_status=401)
        lines = (line for server in self.servers for line in server.lines)
        return sum(all(line.get(name) == wanted[name] for name in wanted) for line in lines)

    def ops(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command of the operator's against the store of this fleet."""
        done = self.project.run("ops", *arguments, given=self.variables)
        return done.returncode, done.stdout, done.stderr


@contextmanager
def replicas(project: Project, keys: Keys, count: int, folder: Path | None = None, **given: str) -> Iterator[Fleet]:
    """Run servers that share a Redis of their own if there is a folder for it.

    Args:
        project: What runs.
        keys: Who may call.
        count: Servers.
        folder: Where Redis runs; without one each server counts in its own memory.
        given: Settings by their name in capitals, without `MCP_`.
    """
    variables = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(keys.file)}
    variables |= {f"MCP_{name}": value for name, value in given.items()}
    with ExitStack() as stack:
        redis = None if folder is None else stack.enter_context(running(folder / "redis"))
        if redis is not None:
            variables["MCP_STATE_URL"] = redis.url
        servers = [stack.enter_context(ServerProcess(project, given=variables)) for _ in range(count)]
        fleet = Fleet(project, servers, keys, variables, redis)
        assert len(fleet.urls) == count
        yield fleet


def one_process(project: Project, keys: Keys, **given: str) -> AbstractContextManager[Fleet]:
    """Run one server that counts in its own memory."""
    return replicas(project, keys, 1, None, **given)


def two_replicas(project: Project, keys: Keys, folder: Path, **given: str) -> AbstractContextManager[Fleet]:
    """Run two servers that share a Redis of their own."""
    return replicas(project, keys, 2, folder, **given)
