"""Reconciliations: when the stores were last compared, and with which result."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper
from backend.storage.postgres.tables import reconciliation


class LastReconciliation(NamedTuple):
    """The last comparison of everything that was completed."""

    finished_at: datetime
    seconds: float
    findings: int
    repaired: int


_LAST = RowMapper(LastReconciliation)
_insert = insert(reconciliation).values(finished_at=func.now())
RECORD = _insert.on_conflict_do_update(
    index_elements=["singleton"],
    set_={
        name: _insert.excluded[name] for name in ("finished_at", "seconds", "findings", "mended")
    },
)
LAST = select(
    reconciliation.c.finished_at,
    reconciliation.c.seconds,
    reconciliation.c.findings,
    reconciliation.c.mended.label("repaired"),
)


def record(tx: Connection, seconds: float, findings: int, repaired: int) -> None:
    """Record that a comparison of everything has just been completed, in place of the one before."""
    tx.execute(RECORD, {"seconds": seconds, "findings": findings, "mended": repaired})


def last(connection: Connection) -> LastReconciliation | None:
    """The last one; None if none was completed yet."""
    return _LAST.one_or_none(connection.execute(LAST))
