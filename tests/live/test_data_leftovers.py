"""What a call leaves on its connection does not reach the next one's, and no role above row security serves (A9)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import CursorResult, text
from sqlalchemy.exc import ProgrammingError

from mcp_chassis.database import Database, RoleSeesEveryTenant
from mcp_chassis.request import Caller, Request, enter
from mcp_chassis.settings import Settings
from tests.live.data import shared_postgres
from tests.support.postgres import OWNER, SERVER

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-data")]


@asynccontextmanager
async def one_connection(role: str = SERVER, environment: str = "development") -> AsyncIterator[Database]:
    """Open a pool of one, so that every call gets what the last one left."""
    given = {"database_url": shared_postgres().url(role), "environment": environment, "public_url": "https://n.example"}
    bounds = {"tool_timeout": 30, "database_pool_size": 1, "database_pool_overflow": 0}
    database = Database()
    vars(database)["settings"] = Settings.model_validate({**given, **bounds})
    try:
        yield database
    finally:
        await database.close()


async def ask(database: Database, tenant: str, statement: str) -> list[object]:
    """Run one statement as a call of `tenant` does."""
    enter(Request(id=f"of-{tenant}", caller=Caller("agent", tenant)))
    async with database.session() as session:
        found = await session.execute(text(statement))
        return [tuple(row) for row in found] if isinstance(found, CursorResult) and found.returns_rows else []


async def test_A9_temporary_table_of_one_tenant_is_gone_for_the_next() -> None:
    async with one_connection() as database:
        await ask(database, "acme", "CREATE TEMP TABLE scratch AS SELECT 'secret of acme' AS said")

        with pytest.raises(ProgrammingError):
            await ask(database, "globex", "SELECT said FROM scratch")


@pytest.mark.parametrize(
    "left",
    ["SET app.tenant = 'acme'", "SELECT set_config('app.tenant', 'acme', false)", "SET search_path = elsewhere"],
)
async def test_A9_setting_of_one_tenants_call_is_gone_for_the_next(left: str) -> None:
    async with one_connection() as database:
        await ask(database, "acme", left)
        async with database.engine.connect() as connection:
            found = await connection.execute(
                text("SELECT coalesce(current_setting('app.tenant', true), ''), current_setting('search_path')")
            )

            assert tuple(found.one()) == ("", '"$user", public')


@pytest.mark.parametrize("role", ["postgres", OWNER])
async def test_A9_role_above_row_security_serves_nobody_in_production(role: str) -> None:
    async with one_connection(role, "production") as database:
        with pytest.raises(RoleSeesEveryTenant):
            await ask(database, "acme", "SELECT 1")
