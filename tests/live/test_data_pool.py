"""Connections are taken per use, given back whatever happens, and never more than the pool has (S6)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]
import pytest

from tests.chassis.client import ERAS, Client, Era, connect
from tests.live.data import (
    busy,
    client_of,
    connections,
    health_of,
    metrics_of,
    port_of,
    shared_postgres,
    stored_project,
    until,
    variables,
)
from tests.live.project import ServerProcess
from tests.support.postgres import SERVER, Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-data")]

POOL = 5
SESSIONS, CALLS = 100, 20
IN_USE, PENDING = "mcp_database_connections_in_use", "mcp_database_connections_pending"
EXHAUSTED, ACQUIRED = "mcp_database_exhausted_total", "mcp_database_acquire_seconds_count"
CANARY = "canary-77b0"


@pytest.fixture(scope="module")
def postgres(_apart: None) -> Postgres:
    """Return the PostgreSQL of this worker."""
    return shared_postgres()


@pytest.fixture(scope="module")
def pooled(postgres: Postgres) -> Iterator[ServerProcess]:
    """Return a server with a pool of 5."""
    how = {"pool_size": str(POOL), "pool_overflow": "0", "acquire_timeout": "15"}  # this machine does other things too
    given = variables(postgres, **{f"database_{name}": value for name, value in how.items()})
    with ServerProcess(stored_project(), given=given) as server:
        yield server


@pytest.fixture(scope="module")
def single(postgres: Postgres) -> Iterator[ServerProcess]:
    """Return a server with one connection: a call that does not give it back stops all others."""
    how = {"pool_size": "1", "pool_overflow": "0", "acquire_timeout": "1", "statement_timeout": "4"}
    given = variables(postgres, **{f"database_{name}": value for name, value in how.items()})
    with ServerProcess(stored_project(), given=given) as server:
        yield server


@asynccontextmanager
async def counting(postgres: Postgres) -> AsyncIterator[list[int]]:
    """Count the server's connections as PostgreSQL sees them, over and over."""
    counts: list[int] = []
    watcher = await asyncpg.connect(postgres.url("postgres"))

    async def look() -> None:
        while True:
            counts.append(await watcher.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{SERVER}'"))
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield counts
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await watcher.close()


@pytest.mark.parametrize("era", ERAS)
async def test_S6_hundred_sessions_run_on_a_pool_of_five(era: Era, pooled: ServerProcess, postgres: Postgres) -> None:
    until(lambda: connections(postgres) <= POOL, "the connections of earlier servers end")
    before = metrics_of(pooled)
    clients = [await client_of(pooled, era) for _ in range(SESSIONS)]

    async def converse(client: Client) -> list[str]:
        answers = [await client.call("whose_connection", id=number) for number in range(CALLS)]
        return [answer.text() for answer in answers if answer.result().get("isError")]

    async with counting(postgres) as counts:
        errors = await asyncio.gather(*map(converse, clients))

    after = metrics_of(pooled)
    assert errors == [[]] * SESSIONS
    assert max(counts) <= POOL
    assert len(counts) > 10
    assert (after[IN_USE], after[PENDING]) == (0, 0)
    assert after[EXHAUSTED] == before[EXHAUSTED]
    assert after[ACQUIRED] - before[ACQUIRED] == SESSIONS * CALLS
    assert busy(postgres) == 0


ENDS = {
    "fail_inside": ({}, "tool_failure"),
    "crash_inside": ({}, "internal_error"),
    "hold_too_long": ({}, "timeout"),
    "wrong_statement": ({}, "internal_error"),
    "hold_impatiently": ({"patience": 0.2}, None),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", ENDS)
async def test_S6_connection_is_given_back_when_a_tool(
    tool: str, era: Era, single: ServerProcess, postgres: Postgres
) -> None:
    arguments, code = ENDS[tool]
    client = await client_of(single, era)
    rows = postgres.ask("SELECT count(*) FROM notes")

    for number in range(2):
        answer = await client.call(tool, arguments, id=number)

        assert answer.result().get("_meta", {}).get("errorCode") == code, answer
        assert CANARY not in answer.text()

    after = await client.call("whose_connection", id=3)
    assert not after.result().get("isError"), after
    await asyncio.to_thread(until, lambda: metrics_of(single)[IN_USE] == 0, "no connection in use")
    # A statement whose author's own time limit cut it off may run on in PostgreSQL until its timeout.
    await asyncio.to_thread(until, lambda: busy(postgres) == 0, "no connection busy")
    assert postgres.ask("SELECT count(*) FROM notes") == rows
    assert CANARY not in single.output


@pytest.mark.parametrize("era", ERAS)
async def test_S6_connection_is_given_back_when_the_client_leaves(
    era: Era, single: ServerProcess, postgres: Postgres
) -> None:
    client = await client_of(single, era)
    held = client.request_bytes("tools/call", {"name": "stream_and_hold", "arguments": {}}, id=1, token="t")
    async with connect(port_of(single)) as connection:
        await connection.send(held)
        await connection.head()
        await connection.chunk()
        await asyncio.to_thread(until, lambda: busy(postgres) == 1, "the call holds its connection")
        if era == "handshake":
            # There a lost connection is no cancellation (2025-11-25, cancellation).
            assert (await client.request("notifications/cancelled", {"requestId": 1}, id=None)).status == 202

    await asyncio.to_thread(until, lambda: busy(postgres) == 0, "the connection is given back")
    answer = await client.call("whose_connection", id=2)
    assert not answer.result().get("isError"), answer
    await asyncio.to_thread(until, lambda: metrics_of(single)[IN_USE] == 0, "no connection in use")


@pytest.mark.parametrize("era", ERAS)
async def test_S6_exhausted_pool_is_a_fast_refusal_that_says_when_to_return(
    era: Era, single: ServerProcess, postgres: Postgres
) -> None:
    holder, client = await client_of(single, era), await client_of(single, era)
    before = metrics_of(single)
    holding = asyncio.create_task(holder.call("hold", {"seconds": 2.5}, id=1))
    await asyncio.to_thread(until, lambda: busy(postgres) == 1, "the call holds its connection")

    waiting = asyncio.create_task(client.call("whose_connection", id=2))
    await asyncio.to_thread(until, lambda: metrics_of(single)[PENDING] == 1, "the call waits")
    assert metrics_of(single)[IN_USE] == 1
    refused = (await waiting).result()

    assert refused["isError"]
    assert refused["_meta"]["errorCode"] == "database_busy"
    assert refused["_meta"]["retryAfterMs"] == 1000
    assert re.search("database is busy.*wait 1", refused["content"][0]["text"])
    assert (await holding).result()["structuredContent"] == {"result": "held"}
    line = single.wait_for("tool_called", error_code="database_busy", request_id=refused["_meta"]["requestId"])
    assert 900 < line["duration_ms"] < 2000
    after = metrics_of(single)
    assert after[EXHAUSTED] - before[EXHAUSTED] == 1
    assert after[ACQUIRED] - before[ACQUIRED] == 2
    assert after[PENDING] == 0
    await asyncio.to_thread(until, lambda: metrics_of(single)[IN_USE] == 0, "no connection in use")


async def test_S6_statement_that_takes_too_long_is_ended_by_postgresql(postgres: Postgres) -> None:
    given = variables(postgres, database_statement_timeout="0.5")
    with ServerProcess(stored_project(), given=given) as server:
        client = await client_of(server, "stateless")

        answer = await client.call("hold", {"seconds": 30})

        line = server.wait_for("tool_called", tool_name="hold")
        assert (line["status"], line["error_code"]) == ("crashed", "internal_error")
        assert 400 < line["duration_ms"] < 5000
        assert [call["status"] for call in line["downstream_calls"]] == ["ok", "QueryCanceledError"]
        assert "statement timeout" not in answer.text()
        errors = 'mcp_downstream_errors_total{service="database"}'
        assert metrics_of(server)[errors] == 1
        assert health_of(server)[0] == 200


async def test_S6_signal_closes_every_connection(postgres: Postgres) -> None:
    with ServerProcess(stored_project(), given=variables(postgres)) as server:
        client = await client_of(server, "stateless")
        await client.call("whose_connection")
        named = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{SERVER}' AND pid = "
        pid = (await client.call("whose_connection")).result()["structuredContent"]["result"]
        assert postgres.ask(f"{named}{pid}") == "1"

        assert server.stop() == 0

    until(lambda: postgres.ask(f"{named}{pid}") == "0", "the connection ends")


def test_S6_health_check_gives_its_connection_back(single: ServerProcess) -> None:
    # A pool without a free connection is no answer to the check, so it may have to ask again.
    until(lambda: health_of(single)[0] == 200, "the check finds a free connection")

    until(lambda: metrics_of(single)[IN_USE] == 0, "no connection in use")
