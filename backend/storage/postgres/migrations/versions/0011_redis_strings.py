"""Epochs and counters in Redis are strings: programs of earlier schemas can't read them, and wrote hashes.

Nothing changes in SQL. Programs from this schema on read counters of both forms, and write strings.
"""

revision = "0011"
down_revision = "0010"
compatible_since = "0011"


def upgrade() -> None:
    """Change nothing."""
