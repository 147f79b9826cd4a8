"""A real process with authentication on: conformance, and two replicas that share a Redis (T3, A3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.live.conformance import required, run_suite
from tests.live.curl import ERAS, Era
from tests.live.forwarder import forwarding
from tests.live.project import Project, ServerProcess
from tests.live.test_conformance import HANDSHAKE_SCENARIOS, HANDSHAKE_SUITE, POLLING, STATELESS_SUITE
from tests.support.redis import Redis, running

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
CHALLENGE = 'Bearer realm="acme-notes", error="invalid_token"'

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live")]


def created_key(project: Project, given: dict[str, str], *options: str) -> str:
    """Create a key with the command that an operator uses; it alone is on standard output."""
    done = project.run("ops", "keys", "create", "--caller", "agent-7", *options, given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def guarded(extended: Project, tmp_path: Path) -> Iterator[str]:
    """Return the address of a forwarder that has the key of a guarded server."""
    given = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(tmp_path / "keys.json")}
    key = created_key(extended, given, "--scope", "*")
    with ServerProcess(extended, given=given) as process, forwarding(process.url, f"Bearer {key}") as url:
        yield url
        assert key not in process.output


def test_T3_handshake_era_suite_finds_no_fault_with_authentication_on(guarded: str, tmp_path: Path) -> None:
    report = run_suite(HANDSHAKE_SUITE, guarded, tmp_path)

    assert len(report.scenarios) == HANDSHAKE_SCENARIOS
    assert report.failed(report.scenarios) == [], report.table(report.scenarios)


def test_T3_newest_suite_finds_no_fault_with_authentication_on(guarded: str, tmp_path: Path) -> None:
    scored = [name for name in required(STATELESS_SUITE, "2026-07-28") if name != POLLING]

    report = run_suite(STATELESS_SUITE, guarded, tmp_path, "--requirements", "2026-07-28")

    assert report.failed(scored) == [], report.table(scored)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Return a Redis of this test alone."""
    with running(tmp_path) as server:
        yield server


@pytest.mark.parametrize("era", ERAS, ids=str)
async def test_A3_key_revoked_by_the_command_is_refused_in_every_replica(
    era: Era, project: Project, redis: Redis
) -> None:
    given = {"MCP_AUTH": "keys", "MCP_STATE_URL": redis.url}
    key = created_key(project, given, "--scope", "notes:read")
    with ServerProcess(project, given=given) as first, ServerProcess(project, given=given) as second:
        for replica in (first, second):
            assert await listed(replica.url, era, key) == {"countdown", "ping", "search_notes"}

        revoked = project.run("ops", "keys", "revoke", key.split("_")[1], given=given)

        assert revoked.returncode == 0, revoked.stderr
        for replica in (first, second):
            answer = httpx2.post(replica.url, json=PING, headers={"Authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, CHALLENGE)
            replica.wait_for("request_refused", http_status=401)
        assert key not in first.output + second.output


async def listed(url: str, era: Era, key: str) -> set[str]:
    """Return the tools that the official client is shown with this key."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http,
        Client(streamable_http_client(url, http_client=http), mode=era.mode) as client,
    ):
        return {tool.name for tool in (await client.list_tools()).tools}
