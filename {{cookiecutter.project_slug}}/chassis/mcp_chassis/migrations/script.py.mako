"""${message}"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: the old version of the server is still running while this one starts."""


def downgrade() -> None:
    """Undo it."""
