"""Where each application is: its shard, if another one than its token's hash among the first ones.

Nothing changes until `instachat reshard` runs, which no longer admits programs of earlier schemas.
"""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """
        ALTER TABLE installation
            -- Over which shards tokens are hashed since the last reshard; NULL: first_shard and shards.
            ADD COLUMN hash_first_shard smallint,
            ADD COLUMN hash_shards smallint,
            -- The same of a reshard that has not ended.
            ADD COLUMN target_first_shard smallint,
            ADD COLUMN target_shards smallint,
            -- The last move of any application, to the minute.
            ADD COLUMN moved_at timestamptz;
        ALTER TABLE application
            -- NULL: stored by a program that knew first_shard and shards only.
            ADD COLUMN shard smallint,
            ADD COLUMN moves bigint NOT NULL DEFAULT 0,
            -- The shards that it has left, the last one last; and when it left that.
            ADD COLUMN moved_from smallint[] NOT NULL DEFAULT '{}',
            ADD COLUMN moved_at timestamptz,
            -- The entry of that shard's log that nothing of the application comes behind.
            ADD COLUMN moved_epoch bigint NOT NULL DEFAULT 0,
            ADD COLUMN moved_sequence bigint NOT NULL DEFAULT 0,
            -- Whether Redis may have counters of its chats in the shard that it has left.
            ADD COLUMN counters_left boolean NOT NULL DEFAULT false;
        CREATE INDEX application_counters_left ON application (id) WHERE counters_left;
        """
    )
