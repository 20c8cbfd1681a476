"""Dead letters: events that could not be stored, and messages that could not be published."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import field_names
from backend.storage.postgres.tables import dead_letter

DEAD_LETTER_KINDS = ("drain", "publish")


class DeadLetter(NamedTuple):
    """An event that could not be stored. Operators name it by its `key`."""

    key: str
    reason: str
    token: str | None
    chat: int | None
    number: int | None
    event: bytes


class StoredDeadLetter(NamedTuple):
    """A dead letter's row; `kind` says what failed: drain or publish."""

    id: int
    kind: str
    letter: DeadLetter
    created_at: datetime


ADD = insert(dead_letter).on_conflict_do_nothing(index_elements=["key"])
COUNT = select(dead_letter.c.kind, func.count().label("total")).group_by(dead_letter.c.kind)
_by_key = dead_letter.c.key == bindparam("key")
_dead_letter = select(
    dead_letter.c.id,
    dead_letter.c.kind,
    *(dead_letter.c[name] for name in field_names(DeadLetter)),
    dead_letter.c.created_at,
)
DEAD_LETTER = _dead_letter.where(_by_key)
DEAD_LETTERS = (
    _dead_letter.where(dead_letter.c.id > bindparam("after"))
    .order_by(dead_letter.c.id)
    .limit(bindparam("limit"))
)
LOCK = select(dead_letter.c.id).where(_by_key).with_for_update()
DELETE = delete(dead_letter).where(_by_key)


def add_dead_letters(tx: Connection, letters: Sequence[DeadLetter], kind: str = "drain") -> None:
    """Store events that could not be stored, or published; one that is stored already stays as it is."""
    tx.execute(ADD, [{**letter._asdict(), "kind": kind} for letter in letters])


def count_dead_letters(connection: Connection) -> dict[str, int]:
    """How many dead letters there are, by kind."""
    totals = {row.kind: row.total for row in connection.execute(COUNT)}
    return dict.fromkeys(DEAD_LETTER_KINDS, 0) | totals


def list_dead_letters(connection: Connection, after: int, limit: int) -> list[StoredDeadLetter]:
    """A page of dead letters, the oldest first; `after` is the previous one's id."""
    rows = connection.execute(DEAD_LETTERS, {"after": after, "limit": limit})
    return [_to_stored_dead_letter(row) for row in rows]


def find_dead_letter(connection: Connection, key: str) -> StoredDeadLetter | None:
    """One dead letter; None if it does not exist."""
    row = connection.execute(DEAD_LETTER, {"key": key}).one_or_none()
    return None if row is None else _to_stored_dead_letter(row)


def lock_dead_letter(tx: Connection, key: str) -> bool:
    """Lock a dead letter until the transaction ends; False if it does not exist any more."""
    return tx.execute(LOCK, {"key": key}).one_or_none() is not None


def delete_dead_letter(tx: Connection, key: str) -> bool:
    """Delete a dead letter; False if it does not exist."""
    return tx.execute(DELETE, {"key": key}).rowcount > 0


def _to_stored_dead_letter(row: Any) -> StoredDeadLetter:
    letter = DeadLetter(**{name: getattr(row, name) for name in DeadLetter._fields})
    return StoredDeadLetter(row.id, row.kind, letter, row.created_at)
