"""Notes, each of one tenant."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from mcp_chassis.migrations import isolate_tenants, tenant_column

revision = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the table; the database itself shows each tenant its own rows."""
    op.create_table(
        "notes",
        sa.Column("number", sa.Integer, primary_key=True),
        tenant_column(),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("written", sa.DateTime(timezone=True), nullable=False),
    )
    isolate_tenants("notes")


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("notes")
