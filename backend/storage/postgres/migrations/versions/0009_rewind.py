"""How many numbers were lost because PostgreSQL went back in time, and when that was noticed."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """
        ALTER TABLE shard
            -- Numbers that were in neither SQL nor the log when a drain looked for them.
            ADD COLUMN lost bigint NOT NULL DEFAULT 0,
            ADD COLUMN rewound_at timestamptz;
        """
    )
