"""How alembic connects; it runs this file by its path."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

_url: str = context.config.attributes["url"]


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def _migrate_server() -> None:
    engine = create_async_engine(_url, poolclass=NullPool, hide_parameters=True)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


if _url.startswith("sqlite"):
    # In step, because a development server migrates its file at start, inside a running event loop.
    with create_engine(_url.replace("+aiosqlite", ""), poolclass=NullPool).connect() as _connection:
        _migrate(_connection)
else:
    asyncio.run(_migrate_server())
