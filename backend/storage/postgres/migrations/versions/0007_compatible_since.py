"""Which programs may use the database: those of two releases run beside each other during an upgrade."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Programs from before this migration need the schema that they know; later ones ask this column."""
    op.execute(
        """
        -- The oldest schema whose programs may use this database.
        ALTER TABLE installation ADD COLUMN compatible_since text NOT NULL DEFAULT '0007';
        """
    )
