"""Lists of applications are in the order of `created_at`, which imports bring with them, not of the ids."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX application_created_at ON application (created_at, id)")
