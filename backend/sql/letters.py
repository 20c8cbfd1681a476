"""Dead letters: events that could not be stored, and messages that could not be published."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text


class DeadLetter(NamedTuple):
    """An event that could not be stored. `key` names it towards operators."""

    key: str
    reason: str
    token: str | None
    chat: int | None
    number: int | None
    event: bytes


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


def count_dead_letters(connection: Connection) -> int:
    """How many dead letters there are."""
    return int(connection.scalar(text("SELECT count(*) FROM dead_letter")) or 0)
