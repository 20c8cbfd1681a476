"""Rate limits: how many chats and messages an application may create in a second."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """
        CREATE TABLE rate_limit (
            application_id bigint PRIMARY KEY REFERENCES application (id),
            per_second bigint NOT NULL
        );
        """
    )
