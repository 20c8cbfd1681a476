"""Which Redis each shard's epoch began in, so that one without its data is told from a wrong one."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the column."""
    op.execute(
        """
        ALTER TABLE shard
            -- The server's master_replid and its database; NULL: a program of an earlier schema began it.
            ADD COLUMN epoch_server text;
        """
    )
