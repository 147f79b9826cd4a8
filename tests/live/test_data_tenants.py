"""PostgreSQL itself keeps tenants apart, whatever a tool forgets (A9)."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.chassis.client import ERAS, Client, Era
from tests.live.data import (
    TENANTS,
    client_of,
    health_of,
    keyring,
    shared_postgres,
    stored_project,
    until,
    variables,
)
from tests.live.project import ServerProcess
from tests.support.postgres import OWNER, SERVER, Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-data")]

ONE_CONNECTION = {"database_pool_size": "1", "database_pool_overflow": "0"}
POISON = "poison-51ee; RESET ALL"


@pytest.fixture(scope="module")
def postgres(_apart: None) -> Postgres:
    """Return the PostgreSQL of this worker."""
    return shared_postgres()


@pytest.fixture(scope="module")
def guarded(postgres: Postgres) -> Iterator[ServerProcess]:
    """Return a server whose callers share one connection, so that every call follows somebody else's."""
    given = variables(postgres, **ONE_CONNECTION) | keyring().given
    with ServerProcess(stored_project(), given=given) as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(postgres: Postgres) -> None:
    postgres.ask("TRUNCATE notes")


@pytest.fixture(params=ERAS)
async def pair(request: pytest.FixtureRequest, guarded: ServerProcess) -> dict[str, Client]:
    """Return a client of each tenant, who has written one note through the project's own tool."""
    era: Era = request.param
    clients = {tenant: await client_of(guarded, era, tenant) for tenant in TENANTS}
    for tenant, client in clients.items():
        added = await client.call("add_note", {"text": f"plan of {tenant}"})
        assert not added.result().get("isError"), added
    return clients


async def listed(client: Client, tool: str = "everything", **arguments: object) -> object:
    """Return what a tool that must succeed answers."""
    result = (await client.call(tool, arguments)).result()
    assert not result.get("isError"), result
    return result["structuredContent"]["result"]


async def test_A9_tool_without_where_sees_one_tenant(pair: dict[str, Client], postgres: Postgres) -> None:
    seen = {tenant: await listed(client) for tenant, client in pair.items()}

    assert seen == {tenant: [f"plan of {tenant}"] for tenant in TENANTS}
    assert postgres.ask("SELECT count(*) FROM notes") == "2"


async def test_A9_search_of_the_project_sees_one_tenant(pair: dict[str, Client]) -> None:
    for tenant, client in pair.items():
        found = await listed(client, "search_notes", query="plan")

        assert isinstance(found, list)
        assert [note["text"] for note in found] == [f"plan of {tenant}"]


async def test_A9_row_for_another_tenant_is_refused(pair: dict[str, Client], postgres: Postgres) -> None:
    planted = await pair["acme"].call("plant", {"tenant": "globex", "note": "forged"})
    moved = await pair["acme"].call("move", {"tenant": "globex"})

    for refused in (planted, moved):
        assert refused.result()["isError"], refused
        assert refused.result()["_meta"]["errorCode"] == "internal_error"
        assert "policy" not in refused.text()
    assert await listed(pair["globex"]) == ["plan of globex"]
    assert postgres.ask("SELECT DISTINCT tenant FROM notes ORDER BY 1").splitlines() == sorted(TENANTS)


async def test_A9_own_row_may_be_named(pair: dict[str, Client]) -> None:
    assert await listed(pair["acme"], "plant", tenant="acme", note="second") == "planted"

    assert await listed(pair["acme"]) == ["plan of acme", "second"]


async def test_A9_connection_carries_nothing_to_its_next_user(pair: dict[str, Client]) -> None:
    backends = [await listed(client, "whose_connection") for client in pair.values()]
    left = await listed(pair["globex"], "settings_left")

    assert len(set(backends)) == 1
    assert left == ["", "", "0"]


async def test_A9_without_tenant_nothing_is_seen(pair: dict[str, Client]) -> None:
    assert await listed(pair["acme"], "unscoped") == 0


async def test_A9_outside_of_a_call_nothing_is_seen_or_written(guarded: ServerProcess, postgres: Postgres) -> None:
    # Rows of the tenant that callers without one belong to: nobody's task may pass for such a caller.
    for tenant in ("default", ""):
        postgres.ask(f"INSERT INTO notes (tenant, text, written) VALUES ('{tenant}', 'hidden', now())")
    client = await client_of(guarded, "stateless", "acme")

    assert await listed(client, "outside") == 0
    assert (await client.call("outside", {"write": True})).result()["isError"]
    assert postgres.ask("SELECT count(*) FROM notes") == "2"


async def test_A9_tenants_at_the_same_time_do_not_mix(postgres: Postgres) -> None:
    given = variables(postgres) | keyring().given
    with ServerProcess(stored_project(), given=given) as server:
        clients = {tenant: await client_of(server, "handshake", tenant) for tenant in TENANTS}
        for tenant, client in clients.items():
            await listed(client, "plant", tenant=tenant, note=tenant)
        order = [tenant for _ in range(40) for tenant in TENANTS]

        answers = await asyncio.gather(*(clients[name].call("everything", id=n) for n, name in enumerate(order)))

    assert [answer.result()["structuredContent"]["result"] for answer in answers] == [[name] for name in order]


def test_A9_policy_holds_for_the_owner_of_the_table(postgres: Postgres) -> None:
    postgres.ask("INSERT INTO notes (tenant, text, written) VALUES ('acme', 'a', now()), ('globex', 'b', now())")

    assert postgres.ask("SELECT count(*) FROM notes", role=OWNER) == "0"
    scoped = "BEGIN; SELECT set_config('app.tenant', 'acme', true); SELECT text FROM notes; COMMIT"
    assert postgres.ask(scoped, role=OWNER).splitlines()[-2:] == ["a", "COMMIT"]
    assert postgres.ask("SELECT relforcerowsecurity FROM pg_class WHERE relname = 'notes'") == "t"


def test_A9_role_of_the_server_owns_nothing(postgres: Postgres) -> None:
    for statement in ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", "DROP POLICY tenant ON notes", "TRUNCATE notes"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            postgres.ask(statement, role=SERVER)

        assert "must be owner" in refused.value.stderr or "permission denied" in refused.value.stderr


def test_A9_role_above_row_security_makes_the_server_unhealthy(postgres: Postgres) -> None:
    for role, right in (("above", "SUPERUSER"), ("beside", "BYPASSRLS")):
        postgres.ask(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' {right}")
    project = stored_project()

    with ExitStack() as stack:
        urls = {role: {"MCP_DATABASE_URL": postgres.url(role)} for role in ("above", "beside", OWNER)}
        servers = {role: stack.enter_context(ServerProcess(project, given=given)) for role, given in urls.items()}
        told = {role: health_of(server) for role, server in servers.items()}
        ready = health_of(servers["above"], "/health/ready")

    assert {role: (status, found["checks"]["database"]["error"]) for role, (status, found) in told.items()} == {
        "above": (503, "RoleSeesEveryTenant"),
        "beside": (503, "RoleSeesEveryTenant"),
        OWNER: (503, "RoleSeesEveryTenant"),  # the policy is forced, but who owns the table can take it away
    }
    assert ready == (503, {"status": "unhealthy"})


async def test_A9_postgres_is_accepted_as_a_spelling(postgres: Postgres) -> None:
    url = postgres.url(SERVER).replace("postgresql", "postgres", 1)

    with ServerProcess(stored_project(), given={"MCP_DATABASE_URL": url}) as server:
        assert await listed(await client_of(server, "stateless")) == []
        assert url.partition("//")[2] not in server.output


async def test_O3_one_id_is_in_the_answer_the_log_and_the_log_of_the_database(
    guarded: ServerProcess, postgres: Postgres
) -> None:
    client = await client_of(guarded, "stateless", "acme")

    answer = await client.call("everything", extra=[("X-Request-ID", "edge-77-abc")])

    assert answer.header("x-request-id") == "edge-77-abc"
    line = guarded.wait_for("tool_called", request_id="edge-77-abc")
    until(lambda: "edge-77-abc|" in postgres.log, "the id in PostgreSQL's log")
    assert [found for found in postgres.log.splitlines() if found.startswith("edge-77-abc|") and "FROM notes" in found]
    assert {call["service"] for call in line["downstream_calls"]} == {"database"}
    assert {call["status"] for call in line["downstream_calls"]} == {"ok"}
    assert all(call["duration_ms"] >= 0 and len(call["operation_hash"]) == 12 for call in line["downstream_calls"])


async def test_O3_long_id_is_cut_where_postgresql_would_complain(guarded: ServerProcess, postgres: Postgres) -> None:
    client, name = await client_of(guarded, "stateless", "acme"), "e" * 100

    await client.call("everything", extra=[("X-Request-ID", name)])

    until(lambda: f"{'e' * 63}|" in postgres.log, "the id in PostgreSQL's log")
    assert "will be truncated" not in postgres.log


async def test_A9_O2_no_value_of_a_call_is_in_the_log_of_the_server(guarded: ServerProcess) -> None:
    client = await client_of(guarded, "stateless", "acme")

    await listed(client, "plant", tenant="acme", note=POISON)
    refused = await client.call("plant", {"tenant": "globex", "note": POISON})

    assert POISON not in guarded.output
    assert POISON not in refused.text()
