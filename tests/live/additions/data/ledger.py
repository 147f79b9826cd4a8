"""Tools on a database that keep every connection rule in their own way, or break it."""

import anyio
from mcp.server.mcpserver import Context
from sqlalchemy import text

from mcp_chassis import ToolFailure
from mcp_chassis.request import _current

from ..server import server

CANARY = "canary-77b0"
"""Text that no client and no log may see."""

database = server.database()
seen_outside: list[int] = []


@server.tool()
async def everything() -> list[str]:
    """Read the whole table; the author forgot the WHERE clause and the model."""
    async with database.session() as session:
        return list(await session.scalars(text("SELECT text FROM notes ORDER BY number")))


@server.tool()
async def plant(tenant: str, note: str) -> str:
    """Write a row for whoever is named."""
    statement = text("INSERT INTO notes (tenant, text, written) VALUES (:tenant, :note, now())")
    async with database.session() as session:
        await session.execute(statement, {"tenant": tenant, "note": note})
    return "planted"


@server.tool()
async def move(tenant: str) -> str:
    """Give all rows to whoever is named."""
    async with database.session() as session:
        await session.execute(text("UPDATE notes SET tenant = :tenant"), {"tenant": tenant})
    return "moved"


@server.tool()
async def settings_left() -> list[str]:
    """Tell what the connection still carries, before anybody set anything."""
    wanted = "SELECT current_setting('app.tenant', true), current_setting('application_name'),"
    async with database.engine.connect() as connection:
        row = (await connection.execute(text(f"{wanted} current_setting('statement_timeout')"))).one()
    return [value or "" for value in row]


@server.tool()
async def unscoped() -> int:
    """Count the rows on a connection that carries no tenant."""
    async with database.engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one())


@server.tool()
async def outside(write: bool = False) -> int:
    """Count the rows as a task sees them that belongs to no call, or write one."""

    async def look() -> None:
        _current.set(None)
        async with database.session() as session:
            if write:
                await session.execute(text("INSERT INTO notes (text, written) VALUES ('nobody', now())"))
            seen_outside.append(int(await session.scalar(text("SELECT count(*) FROM notes")) or 0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
    return seen_outside.pop()


@server.tool()
async def whose_connection() -> int:
    """Return the process of PostgreSQL that serves this call."""
    async with database.session() as session:
        return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def _in_the_database(seconds: float) -> None:
    async with database.session() as session:
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


@server.tool()
async def hold(seconds: float) -> str:
    """Keep a connection busy in the database."""
    await _in_the_database(seconds)
    return "held"


@server.tool(timeout=0.3)
async def hold_too_long() -> str:
    """Keep a connection busy beyond the deadline of the call."""
    await _in_the_database(60)
    return "never"


@server.tool()
async def hold_impatiently(patience: float) -> str:
    """Give up waiting for the database, as an author does it."""
    with anyio.move_on_after(patience):
        await _in_the_database(60)
    return "gave up"


@server.tool()
async def fail_inside() -> str:
    """Fail as the author wants it, with a connection in hand."""
    async with database.session() as session:
        await session.execute(text("INSERT INTO notes (text, written) VALUES ('half done', now())"))
        raise ToolFailure("the note is archived")


@server.tool()
async def crash_inside() -> str:
    """Raise what nobody expects, with a connection in hand."""
    async with database.session() as session:
        await session.execute(text("INSERT INTO notes (text, written) VALUES ('half done', now())"))
        raise RuntimeError(CANARY)


@server.tool()
async def wrong_statement() -> str:
    """Send what the database refuses, with an argument in it."""
    async with database.session() as session:
        await session.execute(text("SELECT * FROM nowhere WHERE secret = :secret"), {"secret": CANARY})
    return "never"


@server.tool()
async def stream_and_hold(context: Context) -> str:
    """Report, then keep a connection busy: the client can see when to leave."""
    async with database.session() as session:
        await context.report_progress(1, 2)
        await session.execute(text("SELECT pg_sleep(60)"))
    return "never"
