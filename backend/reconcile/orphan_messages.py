"""Finds orphan messages: rows whose chat does not exist.

Only a change by hand causes them. Repair moves such a message to a dead letter.
"""

from itertools import islice

from backend.reconcile.comparison import CheckResults, Comparison
from backend.reconcile.findings import FindingKind, new_finding
from backend.reconcile.repair import DeadLetterOrphans
from backend.storage.postgres import orphans
from backend.storage.postgres.database import Connection

MESSAGES_PER_BATCH = 500


def check_orphan_messages(comparison: Comparison, snapshot: Connection) -> CheckResults:
    """Find all orphan messages, unless only one application is compared: an orphan belongs to none."""
    if comparison.token is not None:
        return
    rows = orphans.iter_orphans(snapshot)
    while page := list(islice(rows, MESSAGES_PER_BATCH)):
        with comparison.database.connect() as connection:
            page = orphans.filter_orphans(connection, page)
        for orphan in page:
            detail = "a message whose chat does not exist"
            yield new_finding(FindingKind.ORPHAN, detail, number=orphan.number)
        if page:
            yield DeadLetterOrphans(page)
