"""A PostgreSQL that dies or hangs: calls fail in our words, and everything recovers by itself (S6, O4, E2)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.chassis.client import ERAS, Response
from tests.live.data import client_of, health_of, metrics_of, new_postgres, stored_project, until, upgrade, variables
from tests.live.project import ServerProcess
from tests.support.postgres import SERVER, Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-data")]

IN_USE = "mcp_database_connections_in_use"
ERRORS = 'mcp_downstream_errors_total{service="database"}'
BOUND = 8.0
"""Seconds: the check's interval of 5, its time limit of 2, and one for a busy machine."""


@pytest.fixture(scope="module")
def postgres(_apart: None) -> Iterator[Postgres]:
    """Return a PostgreSQL that these tests may kill; each leaves it running."""
    with ExitStack() as stack:
        postgres = new_postgres(stack)
        upgrade(stored_project(), postgres)
        yield postgres


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[ServerProcess]:
    """Return a server whose statements may take a second."""
    given = variables(postgres, database_statement_timeout="1", database_acquire_timeout="1")
    with ServerProcess(stored_project(), given=given) as process:
        yield process


@contextmanager
def dead(postgres: Postgres) -> Iterator[None]:
    """Kill PostgreSQL, and start it again afterwards."""
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


def status_of(server: ServerProcess) -> object:
    """Return what `/health` says of everything."""
    return health_of(server)[1]["status"]


def check_generic(answer: Response, postgres: Postgres) -> None:
    """Assert that a failure tells its caller nothing of the database."""
    result = answer.result()
    assert result["isError"], answer
    assert result["_meta"]["errorCode"] in {"database_down", "internal_error"}
    for word in (str(postgres.port), "127.0.0.1", "Connect", "SELECT", SERVER, "asyncpg", "sqlalchemy"):
        assert word not in answer.text()


async def test_S6_calls_fail_while_postgresql_is_dead_and_recover_by_themselves(
    server: ServerProcess, postgres: Postgres
) -> None:
    clients = [await client_of(server, era) for era in ERAS]
    assert [(await client.call("everything")).result().get("isError", False) for client in clients] == [False, False]
    errors = metrics_of(server)[ERRORS]

    with dead(postgres):
        failed = [await client.call("everything", id=number) for number in (2, 3) for client in clients]
        await asyncio.to_thread(until, lambda: status_of(server) == "unhealthy", "/health says so")
        status, told = health_of(server)
        lives = health_of(server, "/health/live")
    again = [await client.call("everything", id=9) for client in clients]

    assert [answer.result().get("isError", False) for answer in again] == [False, False]
    for answer in failed:
        check_generic(answer, postgres)
    line = server.wait_for("tool_called", request_id=failed[-1].result()["_meta"]["requestId"])
    calls = [(call["service"], call["status"]) for call in line["downstream_calls"]]
    assert calls == [("database", "ConnectionRefusedError")]
    assert metrics_of(server)[ERRORS] - errors >= len(failed)
    assert (status, told["checks"]["database"]["status"], lives) == (503, "unhealthy", (200, {"status": "alive"}))
    assert told["checks"]["database"]["error"] == "ConnectionRefusedError"
    await asyncio.to_thread(until, lambda: status_of(server) == "healthy", "/health says so")
    await asyncio.to_thread(until, lambda: metrics_of(server)[IN_USE] == 0, "no connection in use")


async def test_S6_kept_connections_that_died_are_replaced_unnoticed(server: ServerProcess, postgres: Postgres) -> None:
    client = await client_of(server, "stateless")
    await asyncio.gather(*(client.call("hold", {"seconds": 0.3}) for _ in range(5)))

    killed = postgres.ask(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{SERVER}'")
    answers = await asyncio.gather(*(client.call("whose_connection") for _ in range(5)))

    assert int(killed) >= 5
    assert [answer.result().get("isError", False) for answer in answers] == [False] * 5
    await asyncio.to_thread(until, lambda: metrics_of(server)[IN_USE] == 0, "no connection in use")


async def test_S6_connection_cut_in_the_middle_of_a_call_fails_that_call_alone(
    server: ServerProcess, postgres: Postgres
) -> None:
    client = await client_of(server, "stateless")
    await client.call("whose_connection")
    holding = asyncio.create_task(client.call("hold", {"seconds": 0.9}))
    sleeping = f"FROM pg_stat_activity WHERE usename = '{SERVER}' AND query LIKE '%pg_sleep%' AND state = 'active'"
    await asyncio.to_thread(until, lambda: postgres.ask(f"SELECT count(*) {sleeping}") == "1", "the call is asleep")

    postgres.ask(f"SELECT pg_terminate_backend(pid) {sleeping}")

    check_generic(await holding, postgres)
    assert not (await client.call("whose_connection")).result().get("isError")
    await asyncio.to_thread(until, lambda: metrics_of(server)[IN_USE] == 0, "no connection in use")


async def test_S6_hanging_postgresql_costs_a_call_its_time_limits_and_no_more(
    server: ServerProcess, postgres: Postgres
) -> None:
    client = await client_of(server, "stateless")
    await client.call("whose_connection")
    backends = postgres.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'").split()
    frozen = [int(pid) for pid in backends if pid] + [postgres.pid]
    for pid in frozen:
        signal_if_there(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        answers = await asyncio.gather(*(client.call("whose_connection") for _ in range(3)))
        seconds = time.monotonic() - begun
        await asyncio.to_thread(until, lambda: status_of(server) == "unhealthy", "/health says so")
        told = health_of(server)[1]["checks"]["database"]
    finally:
        for pid in frozen:
            signal_if_there(pid, signal.SIGCONT)

    assert seconds < BOUND
    assert all(answer.result()["isError"] for answer in answers)
    assert told["error"] is not None
    assert not (await client.call("whose_connection")).result().get("isError")
    await asyncio.to_thread(until, lambda: metrics_of(server)[IN_USE] == 0, "no connection in use")


def signal_if_there(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of PostgreSQL that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


async def test_O4_server_starts_without_its_database_and_says_so(postgres: Postgres) -> None:
    with dead(postgres), ServerProcess(stored_project(), given=variables(postgres)) as server:
        assert health_of(server)[0] == 503
        assert health_of(server, "/health/live")[0] == 200
        check_generic(await (await client_of(server, "stateless")).call("everything"), postgres)
        assert server.stop() == 0
