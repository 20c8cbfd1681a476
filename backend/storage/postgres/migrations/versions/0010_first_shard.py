"""The number of an installation's first shard: 16 in new ones, whose 64 shards have evenly spread hash tags.

Databases that were created earlier keep their shards 0 to 15, and admit the programs that they admitted.
Programs of earlier schemas know no other numbers, so a new database does not admit those.
"""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE installation ADD COLUMN first_shard smallint NOT NULL DEFAULT 0")
    op.execute(
        f"""
        UPDATE installation SET first_shard = found.first
            FROM (SELECT min(number) AS first FROM shard) AS found;
        UPDATE installation SET compatible_since = '{revision}' WHERE first_shard > 0;
        """
    )
