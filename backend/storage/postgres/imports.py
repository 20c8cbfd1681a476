"""Imports: what an import compares its lines with, and the rows that it writes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text

from backend.domain.events import to_micros
from backend.domain.model import Parent
from backend.storage.postgres import gaps
from backend.storage.postgres.copy import copy_rows, escape_copy, escape_copy_or_null
from backend.storage.postgres.database import Connection
from backend.storage.postgres.message_blocks import StoredSpan, record_blocks
from backend.storage.postgres.messages import CONTENT, ImportedMessage
from backend.storage.postgres.rate_limits import set_rate_limits
from backend.storage.postgres.retention import set_retentions
from backend.storage.postgres.statements import RowMapper, hot


class ImportedApplication(NamedTuple):
    """An application about to be stored as it was exported; `name` is None for a tombstone.

    `retention` is in seconds, `limit` in chats and messages a second; None for none.
    """

    token: str
    name: str | None
    created_at: datetime
    updated_at: datetime
    retention: int | None
    limit: int | None


class ImportedChat(NamedTuple):
    """A chat about to be stored as it was exported; `first` is as an `ImportedMessage`'s."""

    application_id: int
    number: int
    first: int | None
    removed: bool
    created_at: datetime
    updated_at: datetime


class StoredParent(NamedTuple):
    """An application or a chat as an import compares it with a line, which has fields of the same names.

    `name` and the settings are None for a chat, `first` for an application. What a user gave it is None for a
    tombstone, as in its line. `highest` is the highest number of its children. `placed` is the shard that the
    application's row names, or None.
    """

    token: str
    chat: int | None
    first: int | None
    removed: bool
    name: str | None
    created_at: datetime
    updated_at: datetime
    id: int
    highest: int
    placed: int | None
    retention: int | None
    limit: int | None

    @property
    def parent(self) -> Parent:
        """The parent's name."""
        return Parent(self.token, self.chat)


class StoredContent(NamedTuple):
    """A message as an import compares it with a line.

    `digests` are the SHA-256 of its columns `CONTENT`, in that order; None for a tombstone. `first` is as in
    its line.
    """

    first: int | None
    removed: bool
    digests: tuple[bytes | None, ...]
    created_at: datetime
    updated_at: datetime


_PARENTS = RowMapper(StoredParent)
# text(), all of these: joins with arrays, and rows made of arrays.
STORED_APPLICATIONS = hot(
    "stored_applications",
    text(
        """
        SELECT a.token, NULL::bigint AS chat, NULL::bigint AS first, a.removed_at IS NOT NULL AS removed,
               CASE WHEN a.removed_at IS NULL THEN a.name END AS name,
               a.created_at, a.updated_at, a.id,
               coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0) AS highest,
               a.shard AS placed,
               (SELECT seconds FROM retention WHERE application_id = a.id) AS retention,
               (SELECT per_second FROM rate_limit WHERE application_id = a.id) AS "limit"
        FROM application a WHERE a.token = ANY(cast(:tokens AS text[]))"""
    ),
)
STORED_CHATS = hot(
    "stored_chats",
    text(
        """
        SELECT a.token, c.number AS chat, c.first_lost AS first,
               c.state <> 'stored' OR a.removed_at IS NOT NULL AS removed,
               NULL AS name, c.created_at, c.updated_at, c.id,
               coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0) AS highest,
               a.shard AS placed, NULL::bigint AS retention, NULL::bigint AS "limit"
        FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
        JOIN application a ON a.token = wanted.token
        JOIN chat c ON c.application_id = a.id AND c.number = wanted.number"""
    ),
)
_digests = ", ".join(f"sha256(convert_to(m.{name}, 'UTF8'))" for name in CONTENT)
STORED_MESSAGES = hot(
    "stored_messages",
    text(
        f"""
        SELECT m.chat_id, m.number, m.first_lost AS first, m.state <> 'stored' AS removed,
               CASE WHEN m.state = 'stored' THEN ARRAY[{_digests}] END AS digests,
               m.created_at, m.updated_at
        FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
        JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number"""
    ),
)
INSERT_APPLICATIONS = text(
    """
    INSERT INTO application (token, name, version, created_at, updated_at, removed_at, shard)
    SELECT token, coalesce(name, ''), version, created, updated, CASE WHEN name IS NULL THEN updated END,
           :shard
    FROM unnest(cast(:tokens AS text[]), cast(:names AS text[]), cast(:versions AS bigint[]),
                cast(:created AS timestamptz[]), cast(:updated AS timestamptz[]))
        AS w(token, name, version, created, updated)"""
)
INSERT_CHATS = text(
    """
    WITH added AS (
        INSERT INTO chat (application_id, number, created_at, updated_at, state, removed_at, first_lost)
        SELECT application, number, created, updated,
               (CASE WHEN gone THEN 'removed' ELSE 'stored' END)::row_state,
               CASE WHEN gone THEN updated END, first
        FROM unnest(cast(:applications AS bigint[]), cast(:numbers AS bigint[]),
                    cast(:firsts AS bigint[]), cast(:created AS timestamptz[]),
                    cast(:updated AS timestamptz[]), cast(:gone AS boolean[]))
            AS w(application, number, first, created, updated, gone)
        RETURNING application_id, state)
    UPDATE application a SET chats_removed = a.chats_removed + g.count
    FROM (SELECT application_id, count(*) FROM added WHERE state = 'removed' GROUP BY application_id) g
    WHERE a.id = g.application_id"""
)
COUNT_REMOVED = text(
    """
    UPDATE chat c SET messages_removed = messages_removed + w.count
    FROM unnest(cast(:ids AS bigint[]), cast(:counts AS bigint[])) AS w(id, count)
    WHERE c.id = w.id"""
)
COPY_COLUMNS = (
    *("chat_id", "number", "version", "created_at", "updated_at", "removed_at", "state"),
    *CONTENT,
    "folded",
    "first_lost",
)


def find_stored_parents(
    connection: Connection, parents: Iterable[Parent]
) -> dict[Parent, StoredParent]:
    """Those of these applications and chats that have a row, tombstones included."""
    applications, chats = [], []
    for token, chat in parents:
        if chat is None:
            applications.append(token)
        else:
            chats.append((token, chat))
    rows: list[StoredParent] = []
    if applications:
        rows += _PARENTS.all(connection.execute(STORED_APPLICATIONS, {"tokens": applications}))
    if chats:
        values = {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
        rows += _PARENTS.all(connection.execute(STORED_CHATS, values))
    return {row.parent: row for row in rows}


def find_stored_messages(
    connection: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], StoredContent]:
    """Those of these (chat id, number) that have a row, tombstones included."""
    values = {"chats": [chat for chat, _ in keys], "numbers": [number for _, number in keys]}
    rows = connection.execute(STORED_MESSAGES, values) if keys else ()
    return {
        (row.chat_id, row.number): StoredContent(
            row.first, row.removed, _to_digests(row.digests), row.created_at, row.updated_at
        )
        for row in rows
    }


def _to_digests(found: list[Any] | None) -> tuple[bytes | None, ...]:
    if found is None:
        return (None,) * len(CONTENT)
    return tuple(None if digest is None else bytes(digest) for digest in found)


def insert_imported_applications(
    tx: Connection, rows: Sequence[ImportedApplication], shard: int
) -> None:
    """Store applications as they were exported, all or none."""
    values = {
        "tokens": [row.token for row in rows],
        "names": [row.name for row in rows],
        "versions": [to_micros(row.updated_at) for row in rows],
        "created": [row.created_at for row in rows],
        "updated": [row.updated_at for row in rows],
        "shard": shard,
    }
    tx.execute(INSERT_APPLICATIONS, values)
    set_retentions(tx, {row.token: row.retention for row in rows if row.retention is not None})
    set_rate_limits(tx, {row.token: row.limit for row in rows if row.limit is not None})


def insert_imported_chats(tx: Connection, rows: Sequence[ImportedChat]) -> None:
    """Store chats as they were exported, all or none; tombstones are counted at their applications."""
    gaps.take_chats_from_ranges(tx, [(row.application_id, row.number) for row in rows])
    values = {
        "applications": [row.application_id for row in rows],
        "numbers": [row.number for row in rows],
        "firsts": [row.first for row in rows],
        "created": [row.created_at for row in rows],
        "updated": [row.updated_at for row in rows],
        "gone": [row.removed for row in rows],
    }
    tx.execute(INSERT_CHATS, values)
    ranges = [(row.application_id, row.number) for row in rows if row.first is not None]
    gaps.limit_chat_ranges(tx, ranges)


_CONTENT_INDICES = [ImportedMessage._fields.index(name) for name in CONTENT]
_EMPTY_CONTENT = "\t" * len(CONTENT)


def copy_imported_messages(tx: Connection, rows: Sequence[ImportedMessage]) -> None:
    """Store messages as they were exported, all or none; tombstones are counted at their chats."""

    def lines() -> Iterator[str]:
        for row in rows:
            created, updated = row.created_at.isoformat(), row.updated_at.isoformat()
            head = f"{row.chat_id}\t{row.number}\t{to_micros(row.updated_at)}\t{created}\t{updated}"
            if row.text is None:
                first = "\\N" if row.first is None else row.first
                yield f"{head}\t{updated}\tremoved{_EMPTY_CONTENT}\t\t{first}\n"
            else:
                values: tuple[Any, ...] = row
                written = (escape_copy_or_null(values[index]) for index in _CONTENT_INDICES)
                content = "\t".join(written)
                yield f"{head}\t\\N\tstored\t{content}\t{escape_copy(row.folded)}\t\\N\n"

    gaps.take_messages_from_ranges(tx, [(row.chat_id, row.number) for row in rows])
    copy_rows(tx, "message", COPY_COLUMNS, lines())
    spans = [
        StoredSpan(row.chat_id, row.number, row.number, row.created_at, row.created_at)
        for row in rows
    ]
    record_blocks(tx, spans, in_order=False)
    removed = Counter(row.chat_id for row in rows if row.text is None)
    if removed:
        values = {"ids": list(removed.keys()), "counts": list(removed.values())}
        tx.execute(COUNT_REMOVED, values)
    ranges = [(row.chat_id, row.number) for row in rows if row.first is not None]
    gaps.limit_message_ranges(tx, ranges)
