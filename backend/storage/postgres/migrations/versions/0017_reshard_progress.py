"""What a reshard has left to move, and an index of the moves that are to be forgotten."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the table and the index."""
    op.execute(
        """
        -- Of a reshard that has not ended. Not a column of installation, whose row drains change, too.
        CREATE TABLE reshard (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            to_move bigint NOT NULL
        );
        CREATE INDEX application_moved_at ON application (moved_at) WHERE moved_from <> '{}'
        """
    )
