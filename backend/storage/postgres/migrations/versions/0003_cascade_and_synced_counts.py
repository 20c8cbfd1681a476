"""What removed parents left behind, how far the counts are synced, and how much was stored in all."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Removed parents of before are looked at once; the first sync compares every counter."""
    op.execute(
        """
        -- rows_left: removed, and rows that belonged to it may be there still.
        ALTER TABLE application ADD COLUMN rows_left boolean NOT NULL DEFAULT false;
        ALTER TABLE chat ADD COLUMN rows_left boolean NOT NULL DEFAULT false;
        UPDATE application SET rows_left = true WHERE removed_at IS NOT NULL;
        UPDATE chat SET rows_left = true WHERE state = 'removed';
        CREATE INDEX application_rows_left ON application (id) WHERE rows_left;
        CREATE INDEX chat_rows_left ON chat (id) WHERE rows_left;

        -- stored: rows that drains have stored in all. synced_epoch: the life of Redis in which every
        -- counter was compared with SQL. synced_at: all that was changed before is in SQL.
        ALTER TABLE shard
            ADD COLUMN stored bigint NOT NULL DEFAULT 0,
            ADD COLUMN synced_epoch bigint NOT NULL DEFAULT 0,
            ADD COLUMN synced_at timestamptz;
        """
    )
