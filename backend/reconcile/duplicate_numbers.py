"""Finds numbers that were given twice: one creation is stored under it, the other one is a dead letter.

The drain has noticed it, and only a person can decide what becomes of the second one: its caller was answered
with the number of something else.
"""

from itertools import islice

from backend.reconcile.comparison import CheckResults, Comparison
from backend.reconcile.findings import FindingKind, new_finding
from backend.storage.postgres import dead_letters
from backend.storage.postgres.database import Connection

DEAD_LETTERS_PER_BATCH = 500


def check_duplicate_numbers(comparison: Comparison, snapshot: Connection) -> CheckResults:
    """Find the dead letters, of all or of one application, that have the number of something else."""
    rows = dead_letters.iter_duplicate_numbers(snapshot, comparison.token)
    while page := list(islice(rows, DEAD_LETTERS_PER_BATCH)):
        with comparison.database.connect() as connection:
            kept = dead_letters.existing_keys(connection, [row.key for row in page])
        for row in page:
            if row.key in kept:
                is_chat = row.chat is None
                yield new_finding(
                    FindingKind.DUPLICATE_NUMBER,
                    f"another {'chat' if is_chat else 'message'} has this number: "
                    f"dead letter {row.key} was answered with it, too",
                    token=row.token,
                    chat=row.number if is_chat else row.chat,
                    number=None if is_chat else row.number,
                )
