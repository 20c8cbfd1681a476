"""Orphans: messages whose chat has no row."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.storage.postgres.outbox import add_to_outbox, is_publishing
from backend.storage.postgres.statements import PAGE

# A chat can't lose its application: a foreign key holds it.
ORPHANS = text(
    """
    SELECT m.chat_id, m.number FROM message m
    WHERE NOT EXISTS (SELECT FROM chat c WHERE c.id = m.chat_id)"""
)


class Orphan(NamedTuple):
    """A message's row without a chat's."""

    chat_id: int
    number: int


def iter_orphans(connection: Connection) -> Iterator[Orphan]:
    """All messages without a chat, read a page at a time."""
    for row in connection.execute(ORPHANS, execution_options={"yield_per": PAGE}):
        yield Orphan(*row)


def filter_orphans(connection: Connection, found: Sequence[Orphan]) -> list[Orphan]:
    """Those of these that are so now."""
    rows = connection.execute(
        text(
            f"""
            {ORPHANS.text} AND (m.chat_id, m.number) IN (SELECT * FROM
                unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])))
            ORDER BY m.chat_id, m.number"""
        ),
        {"chats": [o.chat_id for o in found], "numbers": [o.number for o in found]},
    )
    return [Orphan(*row) for row in rows]


def dead_letter_orphan(tx: Connection, orphan: Orphan) -> None:
    """Make a dead letter of a message without a chat, with all that is known of it; idempotent.

    Where changes are published, the index hears that it is removed.
    """
    version = tx.scalar(
        text(
            """
            WITH gone AS (DELETE FROM message WHERE chat_id = :chat_id AND number = :number RETURNING *)
            INSERT INTO dead_letter (key, kind, reason, number, event)
            SELECT 'orphan-' || gen_random_uuid(), 'drain', 'its chat does not exist', number,
                   convert_to(jsonb_build_object('text', text, 'created_at', created_at,
                       'updated_at', updated_at, 'state', state)::text, 'UTF8')
            FROM gone RETURNING (SELECT version FROM gone)"""
        ),
        orphan._asdict(),
    )
    if version is not None and is_publishing(tx):
        add_to_outbox(tx, [(*orphan, version + 1)])
