"""When the stores were last compared, and what came of it."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """One row, from the first comparison on."""
    op.execute(
        """
        CREATE TABLE reconciliation (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            finished_at timestamptz NOT NULL,
            seconds double precision NOT NULL,
            findings bigint NOT NULL,
            mended bigint NOT NULL
        )
        """
    )
