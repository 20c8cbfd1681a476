"""Imports: what an import compares its lines with, and the rows that it writes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from backend.domain.events import to_micros
from backend.domain.model import Parent
from backend.storage.postgres.copy import copy_rows, escape_copy
from backend.storage.postgres.statements import hot


class ImportedApplication(NamedTuple):
    """An application about to be stored as it was elsewhere; `name` is None for a tombstone."""

    token: str
    name: str | None
    created_at: datetime
    updated_at: datetime


class ImportedChat(NamedTuple):
    """A chat about to be stored as it was elsewhere."""

    application_id: int
    number: int
    removed: bool
    created_at: datetime
    updated_at: datetime


class ImportedMessage(NamedTuple):
    """A message about to be stored as it was elsewhere; `text` is None for a tombstone."""

    chat_id: int
    number: int
    text: str | None
    folded: str
    created_at: datetime
    updated_at: datetime


class StoredRecord(NamedTuple):
    """What an import compares a line with. `value` is an application's name or the SHA-256 of a message's
    text, None for a tombstone; `id` and the children's `highest` number are those of a parent.
    """

    removed: bool
    value: str | bytes | None
    created_at: datetime
    updated_at: datetime
    id: int = 0
    highest: int = 0


STORED_APPLICATIONS = hot(
    "stored_applications",
    """
    SELECT a.token, NULL, a.removed_at IS NOT NULL, CASE WHEN a.removed_at IS NULL THEN a.name END,
           a.created_at, a.updated_at, a.id,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0)
    FROM application a WHERE a.token = ANY(cast(:tokens AS text[]))""",
)

STORED_CHATS = hot(
    "stored_chats",
    """
    SELECT a.token, c.number, c.state <> 'stored' OR a.removed_at IS NOT NULL, NULL,
           c.created_at, c.updated_at, c.id,
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)
    FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
    JOIN application a ON a.token = wanted.token
    JOIN chat c ON c.application_id = a.id AND c.number = wanted.number""",
)

STORED_MESSAGES = hot(
    "stored_messages",
    """
    SELECT m.chat_id, m.number, m.state <> 'stored',
           CASE WHEN m.state = 'stored' THEN sha256(convert_to(m.text, 'UTF8')) END,
           m.created_at, m.updated_at
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
    JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number""",
)


def find_stored_parents(
    connection: Connection, parents: Iterable[Parent]
) -> dict[Parent, StoredRecord]:
    """Those of these applications and chats that are there, tombstones included."""
    applications = [token for token, chat in parents if chat is None]
    chats = [(token, chat) for token, chat in parents if chat is not None]
    rows: list[Any] = []
    if applications:
        rows += connection.execute(STORED_APPLICATIONS, {"tokens": applications})
    if chats:
        values = {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
        rows += connection.execute(STORED_CHATS, values)
    return {Parent(token, chat): StoredRecord(*rest) for token, chat, *rest in rows}


def find_stored_messages(
    connection: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], StoredRecord]:
    """Those of these (chat id, number) that are there, tombstones included."""
    values = {"chats": [c for c, _ in keys], "numbers": [n for _, n in keys]}
    rows = connection.execute(STORED_MESSAGES, values) if keys else ()
    return {
        (chat_id, number): StoredRecord(removed, digest and bytes(digest), *times)
        for chat_id, number, removed, digest, *times in rows
    }


def insert_imported_applications(tx: Connection, rows: Sequence[ImportedApplication]) -> None:
    """Store applications as they were elsewhere, all or none."""
    tx.execute(
        text(
            """
            INSERT INTO application (token, name, version, created_at, updated_at, removed_at)
            SELECT token, coalesce(name, ''), version, created, updated,
                   CASE WHEN name IS NULL THEN updated END
            FROM unnest(cast(:tokens AS text[]), cast(:names AS text[]), cast(:versions AS bigint[]),
                        cast(:created AS timestamptz[]), cast(:updated AS timestamptz[]))
                AS w(token, name, version, created, updated)"""
        ),
        {
            "tokens": [r.token for r in rows],
            "names": [r.name for r in rows],
            "versions": [to_micros(r.updated_at) for r in rows],
            "created": [r.created_at for r in rows],
            "updated": [r.updated_at for r in rows],
        },
    )


def insert_imported_chats(tx: Connection, rows: Sequence[ImportedChat]) -> None:
    """Store chats as they were elsewhere, all or none; tombstones are counted at their parents."""
    tx.execute(
        text(
            """
            WITH added AS (
                INSERT INTO chat (application_id, number, created_at, updated_at, state, removed_at)
                SELECT application, number, created, updated,
                       (CASE WHEN gone THEN 'removed' ELSE 'stored' END)::row_state,
                       CASE WHEN gone THEN updated END
                FROM unnest(cast(:applications AS bigint[]), cast(:numbers AS bigint[]),
                            cast(:created AS timestamptz[]), cast(:updated AS timestamptz[]),
                            cast(:gone AS boolean[]))
                    AS w(application, number, created, updated, gone)
                RETURNING application_id, state)
            UPDATE application a SET chats_removed = a.chats_removed + g.count
            FROM (SELECT application_id, count(*) FROM added WHERE state = 'removed'
                  GROUP BY application_id) g
            WHERE a.id = g.application_id"""
        ),
        {
            "applications": [r.application_id for r in rows],
            "numbers": [r.number for r in rows],
            "created": [r.created_at for r in rows],
            "updated": [r.updated_at for r in rows],
            "gone": [r.removed for r in rows],
        },
    )


def copy_imported_messages(tx: Connection, rows: Sequence[ImportedMessage]) -> None:
    """Store messages as they were elsewhere, all or none; tombstones are counted at their chats."""

    def lines() -> Iterator[str]:
        for chat_id, number, text_, folded, created_at, updated_at in rows:
            created, updated = created_at.isoformat(), updated_at.isoformat()
            head = f"{chat_id}\t{number}\t{to_micros(updated_at)}\t{created}\t{updated}\t"
            if text_ is None:
                yield f"{head}{updated}\tremoved\t\t\n"
            else:
                yield f"{head}\\N\tstored\t{escape_copy(text_)}\t{escape_copy(folded)}\n"

    copy_rows(
        tx,
        "message (chat_id, number, version, created_at, updated_at, removed_at, state, text, folded)",
        lines(),
    )
    removed = Counter(row.chat_id for row in rows if row.text is None)
    if removed:
        tx.execute(
            text(
                "UPDATE chat c SET messages_removed = messages_removed + w.count"
                " FROM unnest(cast(:ids AS bigint[]), cast(:counts AS bigint[])) AS w(id, count)"
                " WHERE c.id = w.id"
            ),
            {"ids": list(removed.keys()), "counts": list(removed.values())},
        )
