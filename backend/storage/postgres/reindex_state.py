"""What a reindex asks of SQL: rows in the order of their keys, how far it has come, and to be the only one.

Rows are read a page at a time, each page as it is at that moment: no snapshot is held for as long as a
reindex takes. What changes behind a page's back is named in the outbox.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from backend.domain.model import MessageKey
from backend.storage.postgres.statements import driver_rows, hot

START_KEY: MessageKey = (0, 0)  # before all keys


# A row that is `dead` or `lost` was never published; no search has to know of it.
_PUBLISHED = "state IN ('stored', 'removed')"
ROWS_TO_COPY = hot(
    "rows_to_copy",
    f"""
    SELECT chat_id, number, version, CASE WHEN state = 'stored' THEN folded END FROM message
    WHERE (chat_id, number) > (:chat_id, :number) AND {_PUBLISHED}
    ORDER BY chat_id, number LIMIT :limit""",
)
ROWS_TO_COMPARE = hot(
    "rows_to_compare",
    f"""
    SELECT chat_id, number, version FROM message
    WHERE (chat_id, number) > (:chat_id, :number) AND {_PUBLISHED}
    ORDER BY chat_id, number LIMIT :limit""",
)
VERSIONS = hot(
    "versions",
    f"""
    SELECT m.chat_id, m.number, m.version
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS w(chat_id, number)
    JOIN message m ON m.chat_id = w.chat_id AND m.number = w.number AND {_PUBLISHED}""",
)


# -- being the only one ---------------------------------------------------------------------------


# -- rows -----------------------------------------------------------------------------------------


def list_rows_to_copy(connection: Connection, after: MessageKey, limit: int) -> Sequence[Any]:
    """The next rows, as (chat id, number, version, folded text); the text is None for a removed one."""
    values = {"chat_id": after[0], "number": after[1], "limit": limit}
    return driver_rows(connection.execute(ROWS_TO_COPY, values))


def list_rows_to_compare(connection: Connection, after: MessageKey, limit: int) -> Sequence[Any]:
    """The next rows, as (chat id, number, version)."""
    values = {"chat_id": after[0], "number": after[1], "limit": limit}
    return driver_rows(connection.execute(ROWS_TO_COMPARE, values))


def versions(connection: Connection, keys: Sequence[MessageKey]) -> dict[MessageKey, int]:
    """The versions of those of these messages that are there now, removed ones included."""
    values = {"chats": [chat for chat, _ in keys], "numbers": [number for _, number in keys]}
    return {(chat, number): v for chat, number, v in connection.execute(VERSIONS, values)}


def count_rows(connection: Connection, through: MessageKey) -> tuple[int, int]:
    """How many rows there are up to that key, and how many altogether."""
    row = connection.execute(
        text(
            "SELECT count(*) FILTER (WHERE (chat_id, number) <= (:chat_id, :number)), count(*)"
            f" FROM message WHERE {_PUBLISHED}"
        ),
        {"chat_id": through[0], "number": through[1]},
    ).one()
    return int(row[0]), int(row[1])


# -- the build ------------------------------------------------------------------------------------


def read_progress(connection: Connection, name: str) -> MessageKey:
    """Up to which key a build has copied the rows."""
    row = connection.execute(
        text("SELECT copied_chat, copied_number FROM search_index WHERE name = :name"),
        {"name": name},
    ).one_or_none()
    return (int(row[0]), int(row[1])) if row else START_KEY


def save_progress(connection: Connection, name: str, key: MessageKey) -> bool:
    """Note up to which key a build has copied the rows; False if it is not kept any more."""
    done = connection.execute(
        text(
            "UPDATE search_index SET copied_chat = :chat, copied_number = :number WHERE name = :name"
        ),
        {"name": name, "chat": key[0], "number": key[1]},
    )
    return done.rowcount == 1


# -- the turn -------------------------------------------------------------------------------------


def make_live(tx: Connection, name: str) -> None:
    """Make an index the live one, and the live one the previous. What was previous is not kept any more,
    unless it takes the place; nor is a live one that was never made.
    """
    tx.execute(
        text(
            "DELETE FROM search_index WHERE name <> :name"
            " AND (state = 'previous' OR (state = 'live' AND made_at IS NULL))"
        ),
        {"name": name},
    )
    tx.execute(
        text(
            "UPDATE search_index SET state = CASE WHEN name = :name THEN 'live' ELSE 'previous' END"
            " WHERE name = :name OR state = 'live'"
        ),
        {"name": name},
    )
