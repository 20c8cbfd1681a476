"""One row for many lost numbers: `first_lost` is the first of the numbers that a row stands for.

A row that holds nothing stands for its own number alone, where the column is null, or for all numbers from
`first_lost` on. A program of the previous schema takes the others for a gap, and may store them once more.
"""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the columns."""
    op.execute("ALTER TABLE chat ADD COLUMN first_lost bigint")
    op.execute("ALTER TABLE message ADD COLUMN first_lost bigint")
