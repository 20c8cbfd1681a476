"""Retention policies: the age at which a worker deletes the messages of an application."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """
        CREATE TABLE retention (
            application_id bigint PRIMARY KEY REFERENCES application (id),
            seconds bigint NOT NULL,
            -- The pass that has begun: it deletes what was created before this time; NULL without one.
            pass_until timestamptz,
            -- The id of the last chat that it has done.
            pass_chat bigint NOT NULL DEFAULT 0,
            -- When the last pass ended.
            passed_at timestamptz
        );
        """
    )
