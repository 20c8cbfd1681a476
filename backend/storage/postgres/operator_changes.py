"""The audit trail's rows: one for each change that an operator has begun."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import DateTime, bindparam, func, insert, or_, select, update

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper
from backend.storage.postgres.tables import operator_change


class OperatorChange(NamedTuple):
    """A change of an operator: who made which one, when, and how it ended.

    `finished_at` and `result` are None while it is made, and if its process ended before it could say more.
    `counts` are the things that it has changed, by kind.
    """

    id: int
    started_at: datetime
    finished_at: datetime | None
    actor: str
    command: str
    target: str
    result: str | None
    counts: dict[str, int]


_CHANGES = RowMapper(OperatorChange)
BEGIN = insert(operator_change).returning(operator_change.c.id)
FINISH = (
    update(operator_change)
    .where(operator_change.c.id == bindparam("of_id"))
    .values(
        finished_at=func.clock_timestamp(),
        target=bindparam("new_target"),
        result=bindparam("new_result"),
        counts=bindparam("new_counts", type_=operator_change.c.counts.type),
    )
)
_since = bindparam("since", type_=DateTime(timezone=True))
# By id, which is the order in which they began: nothing but the key is needed.
CHANGES = (
    select(*(operator_change.c[name] for name in OperatorChange._fields))
    .where(
        operator_change.c.id < bindparam("before"),
        or_(_since.is_(None), operator_change.c.started_at >= _since),
    )
    .order_by(operator_change.c.id.desc())
    .limit(bindparam("limit"))
)


def begin_change(tx: Connection, actor: str, command: str, target: str) -> int:
    """Record that a change begins; returns the id of its row."""
    return int(
        tx.execute(BEGIN, {"actor": actor, "command": command, "target": target}).scalar_one()
    )


def finish_change(
    tx: Connection, id_: int, target: str, result: str, counts: Mapping[str, int]
) -> None:
    """Record how a change has ended, and what it was applied to, or has made."""
    values = {
        "of_id": id_,
        "new_target": target,
        "new_result": result,
        "new_counts": dict(counts),
    }
    tx.execute(FINISH, values)


def list_changes(
    connection: Connection, since: datetime | None, before: int, limit: int
) -> list[OperatorChange]:
    """A page of the changes that began at `since` or later, the newest first; `before` is an id."""
    values = {"since": since, "before": before, "limit": limit}
    return _CHANGES.all(connection.execute(CHANGES, values))
