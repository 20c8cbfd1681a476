"""Leases: locks that need no session of PostgreSQL, so that they work behind a connection pooler."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """
        CREATE TABLE lease (
            name text COLLATE "C" PRIMARY KEY,
            -- Another one for each time that the lease is taken.
            term uuid NOT NULL,
            taken_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            holder text NOT NULL
        );
        """
    )
