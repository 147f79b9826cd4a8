"""${message}"""

from alembic import op

revision = "${up_revision}"
down_revision = ${f'"{down_revision}"' if down_revision else None}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: the old version of the server is still running while this one starts."""


def downgrade() -> None:
    """Undo it."""
