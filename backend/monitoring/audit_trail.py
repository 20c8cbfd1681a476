"""The audit trail: what operators have changed, each with a row in SQL.

A row is committed before its change begins, so no change is made without one, and completed when it has
ended. It has no message's text and no application's name. Of a token it has the beginning only, which is
enough to find the application, and gives no access to it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from backend.domain.errors import InstaChatError
from backend.storage.postgres.database import Database
from backend.storage.postgres.operator_changes import (
    OperatorChange,
    begin_change,
    finish_change,
    list_changes,
)
from backend.storage.postgres.statements import PAGE

MAX_TARGET_CHARACTERS = 300
UNFINISHED = "unfinished"
_BEHIND_ALL = (1 << 63) - 1
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ChangeInProgress:
    """A change that has its row. Set `result` and `counts` before it ends; the `target` may grow."""

    id: int
    target: str
    result: str = UNFINISHED
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The changes of operators. Thread-safe."""

    database: Database

    @contextmanager
    def recorded(self, actor: str, command: str, target: str) -> Iterator[ChangeInProgress]:
        """Record a change that is made inside.

        Raises EngineDown, or another Unavailable, if its row cannot be written: then nothing was changed. If
        PostgreSQL is away when the change ends, its row stays unfinished, which the log says.
        """
        with self.database.begin(repeatable=True) as tx:
            id_ = begin_change(tx, actor, command, _shorten(target))
        change = ChangeInProgress(id_, target)
        try:
            yield change
        finally:
            try:
                with self.database.begin(repeatable=True) as tx:
                    finish_change(
                        tx, change.id, _shorten(change.target), change.result, change.counts
                    )
            except InstaChatError as error:
                logger.warning("the audit trail does not have how this ended: %s", error.message)

    def list(
        self, since: datetime | None = None, limit: int | None = None
    ) -> Iterator[OperatorChange]:
        """The changes that began at `since` or later, the newest first, read a page at a time."""
        before, left = _BEHIND_ALL, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            with self.database.connect() as connection:
                page = list_changes(connection, since, before, size)
            yield from page
            if len(page) < size:
                return
            before = page[-1].id
            left = None if left is None else left - len(page)


def _shorten(target: str) -> str:
    """A target that PostgreSQL can store, of bounded length."""
    stored = target.encode(errors="backslashreplace").decode()
    if len(stored) <= MAX_TARGET_CHARACTERS:
        return stored
    return stored[: MAX_TARGET_CHARACTERS - 1] + "…"
