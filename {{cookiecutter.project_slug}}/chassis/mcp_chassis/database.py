"""The database of your tools: a connection per use, the caller's tenant on every transaction (A9, S6).

    database = server.database()

    @server.tool()
    async def count_notes() -> int:
        async with database.session() as session:
            return await session.scalar(select(func.count()).select_from(Note)) or 0

Needs the `postgres` extra.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final

from alembic import command
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool

from mcp_chassis import request as requests
from mcp_chassis.downstream import record
from mcp_chassis.environment import load
from mcp_chassis.errors import NotNow, ToolFailure, declared_type
from mcp_chassis.migrations import FOLDER, configuration
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry import POOL_ACQUIRE, POOL_EXHAUSTED, POOL_IN_USE, POOL_PENDING, past_span, span

_CONNECT_SECONDS: Final = 3.0
"""What a new connection may take, and the proof that an old one still answers."""
_LONGEST_NAME: Final = 63
"""What PostgreSQL keeps of an application_name."""
_BEGIN: Final = text(
    "SELECT set_config('app.tenant', :tenant, true), set_config('application_name', :request, true),"
    " set_config('statement_timeout', :timeout, true)"
)
"""`SET LOCAL` takes no parameters; these end with the transaction."""
_RESET: Final = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL; DISCARD TEMP"
"""What else a call may have left on its connection: the next one is another tenant's."""
_ABOVE_ROW_SECURITY: Final = """
SELECT rolsuper OR rolbypassrls OR EXISTS (
    SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND nspname !~ '^(pg_|information_schema)' AND pg_has_role(relowner, 'MEMBER')
) FROM pg_roles WHERE rolname = current_user
"""


_closing: Final[set[asyncio.Future[None]]] = set()
"""The event loop keeps weak references only."""


class RoleSeesEveryTenant(Exception):
    """The role of `MCP_DATABASE_URL` is above row security: use one that neither owns tables nor is a superuser."""


class OfTenant:
    """Mix it into a mapped class: whose row it is, the caller's by default."""

    tenant: Mapped[str] = mapped_column(default=lambda: requests.current_caller().tenant)


class Database:
    """One pool of connections, opened when first used; `server.database()` returns it."""

    _held = 0

    @cached_property
    def settings(self) -> Settings:
        """The server's settings."""
        return load(Settings)[0]

    @cached_property
    def engine(self) -> AsyncEngine:
        """The engine, watched."""
        url = self.settings.database_url_in_use
        server = not url.startswith("sqlite")
        # PostgreSQL ends slow statements itself; these are for one that hangs and keeps no time.
        bounds = {"timeout": _CONNECT_SECONDS, "command_timeout": self.settings.database_statement_timeout + 1}
        engine = create_async_engine(
            url,
            connect_args=bounds if server else {},
            poolclass=AsyncAdaptedQueuePool,
            pool_size=self.settings.database_pool_size,
            max_overflow=self.settings.database_pool_overflow,
            pool_timeout=self.settings.database_acquire_timeout,
            pool_pre_ping=server,
            pool_recycle=1800,
            hide_parameters=True,
        )
        instrument(engine)
        if server:
            _isolate(engine, strict=self.settings.environment == "production")
        return engine

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Yield a session in one transaction of the caller's tenant; it commits at the end, or rolls back.

        Raises:
            NotNow: If no connection was free in time, or the database does not answer.
            ToolFailure: On SQLite, which cannot keep tenants apart, for a second tenant.
        """
        try:
            async with self._connection() as connection, connection.begin():
                await self._enter_tenant(connection)
                async with AsyncSession(connection, expire_on_commit=False) as session:
                    yield session
                    await session.flush()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _down() from None
            raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        begun, patience = time.perf_counter(), self.settings.database_acquire_timeout
        try:
            with span("database.acquire"), POOL_PENDING.track_inprogress():
                async with asyncio.timeout(patience + _CONNECT_SECONDS):
                    connection = await self.engine.connect()
        except NoConnection:
            POOL_EXHAUSTED.inc()
            raise NotNow("The database is busy", patience, "database_busy") from None
        except (OSError, TimeoutError) as error:
            # No statement was sent, so no event of SQLAlchemy tells of it.
            record("database", "connect", time.perf_counter() - begun, declared_type(error).__name__, failed=True)
            raise _down() from None
        finally:
            POOL_ACQUIRE.observe(time.perf_counter() - begun)
        self._held += 1
        try:
            yield connection
        finally:
            self._held -= 1
            closing = asyncio.ensure_future(connection.close())
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)
            await asyncio.shield(closing)

    async def _enter_tenant(self, connection: AsyncConnection) -> None:
        request, tenant = requests.current(), requests.current_caller().tenant
        if connection.dialect.name == "sqlite":
            await _claim(connection, tenant)
            return
        given = {
            # The local caller is whom stdio speaks for, not whom a task outside of every call does.
            "tenant": "" if request is None else tenant,
            "request": ("" if request is None else request.id)[:_LONGEST_NAME],
            "timeout": str(round(self.settings.database_statement_timeout * 1000)),
        }
        await connection.execute(_BEGIN, given)

    def migrate(self) -> None:
        """Bring a development's SQLite file to the newest migration; PostgreSQL is migrated by `ops db upgrade`."""
        url = self.settings.database_url_in_use
        if url.startswith("sqlite") and FOLDER.is_dir():
            command.upgrade(configuration(url), "head")

    async def ask(self) -> None:
        """Prove that it answers, and that its row security holds for us; for the health check.

        While calls hold all connections there is none to ask with, and no need: a busy replica is a healthy one, and a
        database that hangs gives them back when the statements' time is over.
        """
        all_held = self._held >= self.settings.database_pool_size + self.settings.database_pool_overflow
        if all_held:
            return
        async with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                await connection.execute(text("SELECT 1"))
            elif (await connection.execute(text(_ABOVE_ROW_SECURITY))).scalar():
                raise RoleSeesEveryTenant

    async def close(self) -> None:
        """Give back all connections."""
        kept = vars(self)
        kept.pop("settings", None)
        if "engine" in kept:
            await kept.pop("engine").dispose()


def _down() -> NotNow:
    return NotNow("The database does not answer", _CONNECT_SECONDS, "database_down")


def _isolate(engine: AsyncEngine, *, strict: bool) -> None:
    """Let nothing of one call reach the next on its connection, and no role that sees every tenant reach a row.

    Args:
        engine: Of PostgreSQL.
        strict: Whether such a role is refused, as in production, or only told of by `/health`.
    """

    @event.listens_for(engine.sync_engine, "reset")
    def forget(connection: Any, _record: Any, state: Any) -> None:
        if not state.terminate_only:
            connection.rollback()
            connection.run_async(lambda driver: driver.execute(_RESET))

    @event.listens_for(engine.sync_engine, "connect")
    def judge(connection: Any, _record: Any) -> None:
        if strict and connection.run_async(lambda driver: driver.fetchval(_ABOVE_ROW_SECURITY)):
            raise RoleSeesEveryTenant


async def _claim(connection: AsyncConnection, tenant: str) -> None:
    """Hold a SQLite file to the first tenant that used it, which the file itself remembers."""
    mark = zlib.crc32(tenant.encode("utf-8")) & 0x7FFFFFFF or 1
    kept = (await connection.execute(text("PRAGMA user_version"))).scalar_one()
    if kept == 0:
        await connection.execute(text(f"PRAGMA user_version = {mark}"))
    elif kept != mark:
        raise ToolFailure("SQLite cannot keep tenants apart and holds another tenant's data; use PostgreSQL")


def instrument(engine: AsyncEngine, service: str = "database") -> None:
    """Record every statement of `engine`, a team's own one too, and count its connections.

    Args:
        engine: The engine.
        service: What logs and metrics call it.
    """
    inside = engine.sync_engine

    def note(statement: str, seconds: float, status: str, *, failed: bool) -> None:
        operation_hash = record(service, statement, seconds, status, failed=failed)
        past_span("downstream", seconds, service=service, operation_hash=operation_hash)

    @event.listens_for(inside, "before_cursor_execute")
    def begin(_connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        context._mcp_started = time.perf_counter()

    @event.listens_for(inside, "after_cursor_execute")
    def end(_connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        note(statement, time.perf_counter() - context._mcp_started, "ok", failed=False)

    @event.listens_for(inside, "handle_error")
    def fail(error: Any) -> None:
        if error.is_pre_ping:
            return  # a kept connection that died is replaced, and nobody's call failed
        started = getattr(error.execution_context, "_mcp_started", None)
        seconds = 0.0 if started is None else time.perf_counter() - started
        # The driver's own error is the cause; SQLAlchemy's adapter calls nearly all of them Error.
        reason = error.original_exception.__cause__ or error.original_exception
        note(error.statement or "", seconds, declared_type(reason).__name__, failed=True)

    held: set[object] = set()

    @event.listens_for(inside, "checkout")
    def take(_connection: Any, place: Any, _proxy: Any) -> None:
        if place not in held:
            held.add(place)
            POOL_IN_USE.inc()

    @event.listens_for(inside, "checkin")
    def give_back(_connection: Any, place: Any) -> None:
        # A connection that was not to be had is given back without having been taken.
        if place in held:
            held.discard(place)
            POOL_IN_USE.dec()
