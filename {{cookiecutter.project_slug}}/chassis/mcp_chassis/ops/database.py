"""`ops db`: the schema of the database (D6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.ops import Impossible, run, tell
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import Store

Revision = Annotated[str, typer.Argument(help="A revision, head, or +1.")]
Message = Annotated[str, typer.Option("--message", "-m", help="What it changes, in a few words.")]


def database_commands(server: Server) -> typer.Typer:
    """Return `ops db`."""
    app = typer.Typer(help="The database's schema: upgrade, current, revision.", no_args_is_help=True)

    @app.command("upgrade")
    def upgrade(revision: Revision = "head") -> None:
        """Bring the database to the newest migration, as the role of MCP_DATABASE_MIGRATION_URL.

        Run it before the new version of the server starts; the old one goes on with a schema that only grew.
        """
        _alembic(server, "upgrade", revision)

    @app.command("current")
    def current() -> None:
        """Show which migration the database is at."""
        _alembic(server, "current")

    @app.command("revision")
    def revision(message: Message) -> None:
        """Write an empty migration into migrations/."""
        _alembic(server, "revision", message)

    return app


def _alembic(server: Server, name: str, *arguments: str) -> None:
    found: list[Settings] = []

    async def work(settings: Settings, _store: Store) -> None:
        production = settings.environment == "production"
        if settings.database_url is None and (production or settings.database_migration_url is not None):
            rule = "is required: its role is the one that migrations let at the tables"
            raise ConfigurationError([Problem("MCP_DATABASE_URL", None, rule)])
        found.append(settings)

    run(server, work)
    try:
        from alembic import command
        from alembic.util import CommandError
        from asyncpg import InterfaceError, PostgresError  # type: ignore[import-untyped]
        from sqlalchemy.exc import SQLAlchemyError

        from mcp_chassis.migrations import FOLDER, configuration
    except ImportError:
        tell("there is no database here: the postgres extra is not installed (uv add 'mcp-chassis[postgres]')")
        raise typer.Exit(Impossible.exit_code) from None
    if not Path(FOLDER).is_dir():
        tell(f"there is no folder {FOLDER}/ here: run this in the root of the project")
        raise typer.Exit(Impossible.exit_code)
    url = found[0].database_url_of_owner
    try:
        getattr(command, name)(configuration(url, server_url=found[0].database_url_in_use), *arguments)
    except (CommandError, InterfaceError, OSError, PostgresError, SQLAlchemyError) as error:
        tell(f"the database did not do it: {getattr(error, 'orig', None) or error}")
        raise typer.Exit(Impossible.exit_code) from None
    tell(f"{name}: done")
