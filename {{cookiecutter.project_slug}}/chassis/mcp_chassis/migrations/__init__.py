"""What migrations of a project share: tables that belong to tenants, kept apart by the database itself (A9).

The migrations themselves are the project's, in its folder `migrations/`. Needs the `postgres` extra.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from alembic import op
from alembic.config import Config
from sqlalchemy import Column, Text, func, select
from sqlalchemy.engine import make_url

FOLDER: Final = Path("migrations")
_ROLE: Final = "MCP_SERVER_ROLE"
_TENANT: Final = "nullif(current_setting('app.tenant', true), '')"
"""No tenant is nobody: a row for it can be neither written nor seen."""


def tenant_column() -> Column[str]:
    """Return the column that `isolate_tenants` needs: whose row it is."""
    return Column("tenant", Text, nullable=False, index=True)


def isolate_tenants(table: str) -> None:
    """Show each tenant its own rows of `table` alone, whoever asks, and let the server's role work with them.

    On SQLite, which knows no row security, it does nothing: there `Database` refuses a second tenant.
    """
    if op.get_bind().dialect.name == "sqlite":
        return
    quote = op.get_bind().dialect.identifier_preparer.quote
    name = quote(table)
    op.execute(f"ALTER TABLE {name} ALTER COLUMN tenant SET DEFAULT {_TENANT}")
    op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {name} USING (tenant = {_TENANT}) WITH CHECK (tenant = {_TENANT})")
    if role := os.environ.get(_ROLE):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {quote(role)}")
        schema = quote(str(op.get_bind().scalar(select(func.current_schema()))))
        op.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {quote(role)}")


def configuration(url: str, *, server_url: str | None = None) -> Config:
    """Return what alembic needs for the migrations of the project in the current folder.

    Args:
        url: The database, as the role that owns the tables.
        server_url: The same as the server's role, which is granted what it needs.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("version_locations", str(FOLDER.absolute()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    os.environ[_ROLE] = (make_url(server_url).username or "") if server_url else ""
    return config
