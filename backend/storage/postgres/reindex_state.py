"""What a reindex reads and records: rows in the order of their keys, its progress, and the alias swap.

Rows are read a page at a time, each page as it is at that moment: no snapshot is held for as long as a
reindex takes. What changes after a page was read is named in the outbox.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, case, delete, or_, select, text, update

from backend.domain.model import MessageKey
from backend.storage.postgres.database import Connection
from backend.storage.postgres.outbox import ChangedMessage
from backend.storage.postgres.statements import RowMapper, hot
from backend.storage.postgres.tables import search_index

START_KEY: MessageKey = (0, 0)  # before all keys


class RowCounts(NamedTuple):
    """How many rows a reindex has to copy: those up to a key, and all."""

    copied: int
    total: int


class _Version(NamedTuple):
    chat_id: int
    number: int
    version: int


# A row that is `dead` or `lost` was never published; no search has to know of it.
_PUBLISHED = "state IN ('stored', 'removed')"
# text(): comparisons of rows (chat_id, number), which follow the index; read for millions of rows.
ROWS_TO_COPY = hot(
    "rows_to_copy",
    text(
        f"""
        SELECT chat_id, number, version, CASE WHEN state = 'stored' THEN folded END AS folded
        FROM message WHERE (chat_id, number) > (:chat_id, :number) AND {_PUBLISHED}
        ORDER BY chat_id, number LIMIT :limit"""
    ),
)
ROWS_TO_COMPARE = hot(
    "rows_to_compare",
    text(
        f"""
        SELECT chat_id, number, version FROM message
        WHERE (chat_id, number) > (:chat_id, :number) AND {_PUBLISHED}
        ORDER BY chat_id, number LIMIT :limit"""
    ),
)
VERSIONS = hot(
    "versions",
    text(
        f"""
        SELECT m.chat_id, m.number, m.version
        FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS w(chat_id, number)
        JOIN message m ON m.chat_id = w.chat_id AND m.number = w.number AND {_PUBLISHED}"""
    ),
)
COUNT_ROWS = text(
    f"""
    SELECT count(*) FILTER (WHERE (chat_id, number) <= (:chat_id, :number)) AS copied,
           count(*) AS total
    FROM message WHERE {_PUBLISHED}"""
)
PROGRESS = select(search_index.c.copied_chat, search_index.c.copied_number).where(
    search_index.c.name == bindparam("name")
)
SAVE_PROGRESS = (
    update(search_index)
    .where(search_index.c.name == bindparam("of_name"))
    .values(copied_chat=bindparam("chat"), copied_number=bindparam("number"))
)
_named = search_index.c.name == bindparam("of_name")
_is_live = search_index.c.state == "live"
UNREGISTER_PREVIOUS = delete(search_index).where(
    ~_named,
    or_(search_index.c.state == "previous", and_(_is_live, search_index.c.made_at.is_(None))),
)
SWAP_LIVE = (
    update(search_index)
    .where(or_(_named, _is_live))
    .values(state=case((_named, "live"), else_="previous"))
)
_ROWS_TO_COPY = RowMapper(ChangedMessage)
_VERSIONS = RowMapper(_Version)


def list_rows_to_copy(connection: Connection, after: MessageKey, limit: int) -> Sequence[Any]:
    """The next rows, as tuples of the fields of `ChangedMessage`."""
    values = {"chat_id": after[0], "number": after[1], "limit": limit}
    return _ROWS_TO_COPY.tuples(connection.execute(ROWS_TO_COPY, values))


def list_rows_to_compare(connection: Connection, after: MessageKey, limit: int) -> Sequence[Any]:
    """The next rows, as tuples (chat id, number, version)."""
    values = {"chat_id": after[0], "number": after[1], "limit": limit}
    return _VERSIONS.tuples(connection.execute(ROWS_TO_COMPARE, values))


def versions(connection: Connection, keys: Sequence[MessageKey]) -> dict[MessageKey, int]:
    """The versions of those of these messages that have a row now, removed ones included."""
    values = {"chats": [chat for chat, _ in keys], "numbers": [number for _, number in keys]}
    rows = _VERSIONS.all(connection.execute(VERSIONS, values))
    return {(row.chat_id, row.number): row.version for row in rows}


def count_rows(connection: Connection, through: MessageKey) -> RowCounts:
    """How many rows there are up to that key, and how many altogether."""
    values = {"chat_id": through[0], "number": through[1]}
    return RowMapper(RowCounts).one(connection.execute(COUNT_ROWS, values))


def read_progress(connection: Connection, name: str) -> MessageKey:
    """The key up to which a build has copied the rows."""
    row = connection.execute(PROGRESS, {"name": name}).one_or_none()
    return START_KEY if row is None else (row.copied_chat, row.copied_number)


def save_progress(connection: Connection, name: str, key: MessageKey) -> bool:
    """Record up to which key a build has copied the rows; False if it is not registered any more."""
    values = {"of_name": name, "chat": key[0], "number": key[1]}
    return connection.execute(SAVE_PROGRESS, values).rowcount == 1


def make_live(tx: Connection, name: str) -> None:
    """Make an index the live one, and the live one the previous.

    Unregisters the index that was the previous one, unless it becomes the live one, and a live one that
    Elasticsearch never created.
    """
    tx.execute(UNREGISTER_PREVIOUS, {"of_name": name})
    tx.execute(SWAP_LIVE, {"of_name": name})
