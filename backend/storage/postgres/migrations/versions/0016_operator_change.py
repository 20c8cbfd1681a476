"""The audit trail: what operators have changed, by commands and by the operator's HTTP routes."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """
        CREATE TABLE operator_change (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            started_at timestamptz NOT NULL DEFAULT now(),
            -- NULL: the change is not finished, or its process ended before it could say so.
            finished_at timestamptz,
            actor text NOT NULL,
            command text NOT NULL,
            target text NOT NULL,
            result text,
            counts jsonb NOT NULL DEFAULT '{}'
        );
        """
    )
