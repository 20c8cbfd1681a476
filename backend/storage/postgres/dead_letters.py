"""Dead letters: events that could not be stored, and messages that could not be published."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

DEAD_LETTER_KINDS = ("drain", "publish")


class DeadLetter(NamedTuple):
    """An event that could not be stored. `key` names it towards operators."""

    key: str
    reason: str
    token: str | None
    chat: int | None
    number: int | None
    event: bytes


class StoredDeadLetter(NamedTuple):
    """A dead letter as it is kept; `id` is its row's, and `kind` says what failed: drain or publish."""

    id: int
    kind: str
    letter: DeadLetter
    created_at: datetime


def add_dead_letters(tx: Connection, letters: Sequence[DeadLetter], kind: str = "drain") -> None:
    """Keep events that could not be stored, or published; one that is kept already stays as it is."""
    tx.execute(
        text(
            "INSERT INTO dead_letter (key, kind, reason, token, chat, number, event)"
            " VALUES (:key, :kind, :reason, :token, :chat, :number, :event)"
            " ON CONFLICT (key) DO NOTHING"
        ),
        [{**letter._asdict(), "kind": kind} for letter in letters],
    )


def count_dead_letters(connection: Connection) -> dict[str, int]:
    """How many dead letters there are, by kind."""
    rows = connection.execute(text("SELECT kind, count(*) AS total FROM dead_letter GROUP BY kind"))
    return dict.fromkeys(DEAD_LETTER_KINDS, 0) | {row.kind: row.total for row in rows}


_SELECT_DEAD_LETTER = (
    "SELECT id, kind, key, reason, token, chat, number, event, created_at FROM dead_letter"
)


def list_dead_letters(connection: Connection, after: int, limit: int) -> list[StoredDeadLetter]:
    """A page of dead letters, the oldest first; `after` is the last one's id."""
    statement = text(f"{_SELECT_DEAD_LETTER} WHERE id > :after ORDER BY id LIMIT :limit")
    return [
        _to_stored_dead_letter(row)
        for row in connection.execute(statement, {"after": after, "limit": limit})
    ]


def find_dead_letter(connection: Connection, key: str) -> StoredDeadLetter | None:
    """One dead letter."""
    row = connection.execute(
        text(f"{_SELECT_DEAD_LETTER} WHERE key = :key"), {"key": key}
    ).one_or_none()
    return None if row is None else _to_stored_dead_letter(row)


def lock_dead_letter(tx: Connection, key: str) -> bool:
    """Lock a dead letter for the transaction; False if it is not there any more."""
    statement = text("SELECT FROM dead_letter WHERE key = :key FOR UPDATE")
    return tx.execute(statement, {"key": key}).one_or_none() is not None


def delete_dead_letter(tx: Connection, key: str) -> bool:
    """Drop a dead letter; False if it is not there."""
    statement = text("DELETE FROM dead_letter WHERE key = :key")
    return tx.execute(statement, {"key": key}).rowcount > 0


def _to_stored_dead_letter(row: Any) -> StoredDeadLetter:
    letter = DeadLetter(row.key, row.reason, row.token, row.chat, row.number, bytes(row.event))
    return StoredDeadLetter(row.id, row.kind, letter, row.created_at)
