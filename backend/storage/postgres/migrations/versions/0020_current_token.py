"""The token that an application's clients use now, where it is not the one that it was created with."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """
        ALTER TABLE application
            -- NULL: its `token`. Redis, the log and all other tables know it by that for ever.
            ADD COLUMN current_token text COLLATE "C";
        -- Not unique, as a migration only adds; the tokens have 192 random bits.
        CREATE INDEX application_current_token ON application (current_token)
            WHERE current_token IS NOT NULL;
        ALTER TABLE installation
            -- Raised with each change of a `current_token`, so that a process notices it by this row.
            ADD COLUMN rotations bigint NOT NULL DEFAULT 0;
        """
    )
