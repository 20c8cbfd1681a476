"""Reconciliations: when the stores were last compared, and what came of it."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text


class LastReconciliation(NamedTuple):
    """The last comparison of everything that came to its end."""

    finished_at: datetime
    seconds: float
    findings: int
    repaired: int


def record(tx: Connection, seconds: float, findings: int, repaired: int) -> None:
    """A comparison of everything has just ended; the one before is forgotten."""
    tx.execute(
        text(
            """
            INSERT INTO reconciliation (finished_at, seconds, findings, mended)
            VALUES (now(), :seconds, :findings, :repaired)
            ON CONFLICT (singleton) DO UPDATE SET finished_at = excluded.finished_at,
                seconds = excluded.seconds, findings = excluded.findings, mended = excluded.mended"""
        ),
        {"seconds": seconds, "findings": findings, "repaired": repaired},
    )


def last(connection: Connection) -> LastReconciliation | None:
    """The last one; None if there was none yet."""
    row = connection.execute(
        text("SELECT finished_at, seconds, findings, mended AS repaired FROM reconciliation")
    ).one_or_none()
    return None if row is None else LastReconciliation(*row)
