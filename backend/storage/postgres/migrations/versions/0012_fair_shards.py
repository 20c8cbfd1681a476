"""What is stored of a shard beyond its cursor: applications with a long backlog do not hold up the others."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the columns. A program of an earlier schema moves the cursor only, which stays right."""
    op.execute(
        """
        ALTER TABLE shard
            -- The entry up to which everything is stored, but for what deferred applications have accepted.
            ADD COLUMN ahead_epoch bigint NOT NULL DEFAULT 0,
            ADD COLUMN ahead_sequence bigint NOT NULL DEFAULT 0,
            -- By token: the entry, as EPOCH-SEQUENCE, up to which the entries of a deferred application are.
            ADD COLUMN deferred jsonb NOT NULL DEFAULT '{}';
        """
    )
