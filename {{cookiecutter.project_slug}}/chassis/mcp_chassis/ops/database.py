"""`ops db`: the schema of the database (D6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcp_chassis.environment import ConfigurationError, Problem, load
from mcp_chassis.ops import Impossible, explained, tell
from mcp_chassis.settings import Settings

Revision = Annotated[str, typer.Argument(help="A revision, head, or +1.")]
Message = Annotated[str, typer.Option("--message", "-m", help="What it changes, in a few words.")]


def database_commands() -> typer.Typer:
    """Return `ops db`."""
    app = typer.Typer(help="The database's schema: upgrade, current, revision.", no_args_is_help=True)

    @app.command("upgrade")
    def upgrade(revision: Revision = "head") -> None:
        """Bring the database to the newest migration, as the role of MCP_DATABASE_MIGRATION_URL.

        Run it before the new version of the server starts; the old one goes on with a schema that only grew.
        """
        _alembic("upgrade", revision)

    @app.command("current")
    def current() -> None:
        """Show which migration the database is at."""
        _alembic("current")

    @app.command("revision")
    def revision(message: Message) -> None:
        """Write an empty migration into migrations/."""
        _alembic("revision", message)

    return app


def _alembic(name: str, *arguments: str) -> None:
    with explained():
        settings, _ = load(Settings)
        production = settings.environment == "production"
        if settings.database_url is None and (production or settings.database_migration_url is not None):
            rule = "is required: its role is the one that migrations let at the tables"
            raise ConfigurationError([Problem("MCP_DATABASE_URL", None, rule)])
        _migrate(settings, name, *arguments)
    tell(f"{name}: done")


def _migrate(settings: Settings, name: str, *arguments: str) -> None:
    try:
        from alembic import command
        from alembic.util import CommandError
        from asyncpg import InterfaceError, PostgresError  # type: ignore[import-untyped]
        from sqlalchemy.exc import SQLAlchemyError

        from mcp_chassis.migrations import FOLDER, configuration
    except ImportError:
        words = "there is no database here: the postgres extra is not installed (uv add 'mcp-chassis[postgres]')"
        raise Impossible(words) from None
    if not Path(FOLDER).is_dir():
        raise Impossible(f"there is no folder {FOLDER}/ here: run this in the root of the project")
    given = configuration(settings.database_url_of_owner, server_url=settings.database_url_in_use)
    try:
        getattr(command, name)(given, *arguments)
    except (CommandError, InterfaceError, OSError, PostgresError, SQLAlchemyError) as error:
        raise Impossible(f"the database did not do it: {getattr(error, 'orig', None) or error}") from None
