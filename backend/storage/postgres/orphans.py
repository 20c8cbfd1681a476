"""Orphans: messages whose chat has no row."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.messages import CONTENT
from backend.storage.postgres.outbox import add_if_publishing
from backend.storage.postgres.statements import PAGE, RowMapper


class Orphan(NamedTuple):
    """The row of a message whose chat has none."""

    chat_id: int
    number: int


_ORPHANS = RowMapper(Orphan)
# A chat cannot lose its application: a foreign key forbids it.
ORPHANS = text(
    """
    SELECT m.chat_id, m.number FROM message m
    WHERE NOT EXISTS (SELECT FROM chat c WHERE c.id = m.chat_id)"""
)
STILL_ORPHANS = text(
    f"""
    {ORPHANS.text} AND (m.chat_id, m.number) IN
        (SELECT * FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])))
    ORDER BY m.chat_id, m.number"""
)
# text(): the delete and the insert are one statement.
_content = ", ".join(f"'{name}', {name}" for name in CONTENT)
DEAD_LETTER_ORPHAN = text(
    f"""
    WITH gone AS (DELETE FROM message WHERE chat_id = :chat_id AND number = :number RETURNING *)
    INSERT INTO dead_letter (key, kind, reason, number, event)
    SELECT 'orphan-' || gen_random_uuid(), 'drain', 'its chat does not exist', number,
           convert_to(jsonb_build_object({_content}, 'created_at', created_at,
               'updated_at', updated_at, 'state', state)::text, 'UTF8')
    FROM gone RETURNING (SELECT version FROM gone)"""
)


def iter_orphans(connection: Connection) -> Iterator[Orphan]:
    """All messages whose chat has no row, read a page at a time."""
    rows = connection.execute(ORPHANS, execution_options={"yield_per": PAGE})
    return _ORPHANS.stream(rows)


def filter_orphans(connection: Connection, found: Sequence[Orphan]) -> list[Orphan]:
    """Those of these that are orphans now, in order."""
    values = {"chats": [row.chat_id for row in found], "numbers": [row.number for row in found]}
    return _ORPHANS.all(connection.execute(STILL_ORPHANS, values))


def dead_letter_orphan(tx: Connection, orphan: Orphan) -> None:
    """Replace a message whose chat has no row by a dead letter with all that is known of it; idempotent.

    Where changes are published, the index is told that the message is removed.
    """
    version = tx.scalar(DEAD_LETTER_ORPHAN, orphan._asdict())
    if version is not None:
        add_if_publishing(tx, [(orphan.chat_id, orphan.number, version + 1)])
