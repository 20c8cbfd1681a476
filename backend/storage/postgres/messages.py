"""Messages: their rows, read, searched, stored, edited and removed."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, text

from backend.domain.events import from_micros
from backend.domain.model import Message
from backend.storage.postgres.chats import count_removed
from backend.storage.postgres.copy import copy_rows, escape_copy, format_copy_time
from backend.storage.postgres.statements import NEXT_VERSION, driver_rows, hot


class MessageRow(NamedTuple):
    """A message about to be stored. `version` is its first: its creation in microseconds since 1970."""

    chat_id: int
    number: int
    text: str
    folded: str
    version: int

    @property
    def at(self) -> datetime:
        """When it was created."""
        return from_micros(self.version)


RowValues = tuple[int, int, str, str, int]  # a MessageRow's, where there are too many to name each


class StoredMessage(NamedTuple):
    """A message's row with what must stay inside: ids and state."""

    chat_id: int
    state: str
    message: Message


_MESSAGE = """
    SELECT m.chat_id, m.state, m.number, m.text, m.created_at, m.updated_at, m.version
    FROM application a JOIN chat c ON c.application_id = a.id JOIN message m ON m.chat_id = c.id
    WHERE a.token = :token AND a.removed_at IS NULL AND c.number = :chat AND c.state = 'stored'"""

MESSAGE = hot("message", _MESSAGE + " AND m.number = :number")

MESSAGES = hot(
    "messages",
    """
    SELECT number, text, created_at, updated_at, version FROM message
    WHERE chat_id = :chat_id AND number > :after AND state = 'stored'
    ORDER BY number LIMIT :limit""",
)

# strpos, not LIKE: the keyword is a text, not a pattern. COLLATE "C": bytes, whatever the database's.
SEARCH_MESSAGES = hot(
    "search_messages",
    """
    SELECT number, text, created_at, updated_at, version FROM message
    WHERE chat_id = :chat_id AND number > :after AND state = 'stored'
      AND strpos(folded COLLATE "C", :keyword) > 0
    ORDER BY number LIMIT :limit""",
)

# The same, of candidates that an index names.
FILTER_CANDIDATES = hot(
    "filter_candidates",
    """
    SELECT number, text, created_at, updated_at, version FROM message
    WHERE chat_id = :chat_id AND number = ANY(cast(:numbers AS bigint[])) AND state = 'stored'
      AND strpos(folded COLLATE "C", :keyword) > 0
    ORDER BY number LIMIT :limit""",
)

COUNT_INDEXED = hot(
    "count_indexed",
    "SELECT count(*) FROM message WHERE chat_id = :chat_id AND number BETWEEN :first AND :last"
    " AND state IN ('stored', 'removed')",
)

DEAD_NUMBERS = hot(
    "dead_numbers",
    """
    SELECT m.number
    FROM application a JOIN chat c ON c.application_id = a.id JOIN message m ON m.chat_id = c.id
    WHERE a.token = :token AND c.number = :chat AND m.number BETWEEN :first AND :last
      AND m.state = 'dead' ORDER BY m.number""",
)

MESSAGE_TIMES = hot(
    "message_times",
    """
    SELECT m.chat_id, m.number, m.created_at
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
    JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number""",
)

EDIT = hot(
    "edit",
    "UPDATE message SET text = :text, folded = :folded, updated_at = now(),"
    f" version = {NEXT_VERSION}"
    " WHERE chat_id = :chat_id AND number = :number AND version = :version AND state = 'stored'"
    " RETURNING number, text, created_at, updated_at, version",
)

REMOVE = hot(
    "remove",
    "UPDATE message SET text = '', folded = '', state = 'removed', removed_at = now(),"
    f" updated_at = now(), version = {NEXT_VERSION}"
    " WHERE chat_id = :chat_id AND number = :number AND version = :version AND state = 'stored'"
    " RETURNING version",
)

RESTORE_REJECTED = hot(
    "restore_rejected",
    "UPDATE message SET text = :text, folded = :folded, state = 'stored',"
    f" version = {NEXT_VERSION}"
    " WHERE chat_id = :chat_id AND number = :number AND state = 'dead' AND created_at = :at"
    " RETURNING version",
)


def get_message(
    connection: Connection, token: str, chat_number: int, number: int
) -> StoredMessage | None:
    """A message's row, in whatever state it is; None also when its chat or application is gone."""
    row = connection.execute(
        MESSAGE, {"token": token, "chat": chat_number, "number": number}
    ).one_or_none()
    return None if row is None else StoredMessage(row[0], row[1], Message(*row[2:]))


def dead_numbers(
    connection: Connection, token: str, chat_number: int, first: int, last: int
) -> list[int]:
    """Which of these numbers of a chat hold a rejected creation."""
    values = {"token": token, "chat": chat_number, "first": first, "last": last}
    return list(connection.scalars(DEAD_NUMBERS, values))


def list_messages(connection: Connection, chat_id: int, after: int, limit: int) -> list[Message]:
    """A page of a chat's messages, by number."""
    rows = connection.execute(MESSAGES, {"chat_id": chat_id, "after": after, "limit": limit})
    return _messages(rows)


def search_messages(
    connection: Connection, chat_id: int, keyword: str, after: int, limit: int
) -> list[Message]:
    """A chat's messages whose folded text contains the folded keyword, by number."""
    rows = connection.execute(
        SEARCH_MESSAGES, {"chat_id": chat_id, "keyword": keyword, "after": after, "limit": limit}
    )
    return _messages(rows)


def filter_candidates(
    connection: Connection, chat_id: int, numbers: Sequence[int], keyword: str, limit: int
) -> list[Message]:
    """Those of a chat's messages with these numbers that `search_messages` would find, by number."""
    values = {"chat_id": chat_id, "numbers": list(numbers), "keyword": keyword, "limit": limit}
    return _messages(connection.execute(FILTER_CANDIDATES, values))


def _messages(rows: CursorResult[Any]) -> list[Message]:
    return list(starmap(Message, driver_rows(rows)))


def count_indexed(connection: Connection, chat_id: int, first: int, last: int) -> int:
    """How many of these numbers of a chat an index has to know, once it has caught up."""
    values = {"chat_id": chat_id, "first": first, "last": last}
    return int(connection.scalar(COUNT_INDEXED, values) or 0)


def message_times(
    tx: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], datetime]:
    """The creation times of those (chat id, number) that have a row."""
    rows = tx.execute(
        MESSAGE_TIMES, {"chats": [c for c, _ in keys], "numbers": [n for _, n in keys]}
    )
    return {(chat_id, number): at for chat_id, number, at in rows}


def edit_message(
    tx: Connection, chat_id: int, number: int, version: int, new_text: str, folded: str
) -> Message | None:
    """Give a message that still has that version another text; None if it hasn't."""
    row = tx.execute(
        EDIT,
        {
            "chat_id": chat_id,
            "number": number,
            "version": version,
            "text": new_text,
            "folded": folded,
        },
    ).one_or_none()
    return None if row is None else Message(*row)


def remove_message(tx: Connection, chat_id: int, number: int, version: int) -> int | None:
    """Leave a tombstone for a message that still has that version, counted at its chat.

    Returns the tombstone's version; None, changing nothing, if it hasn't that version.
    """
    # The parent's row lock first: removals and dead letters of one chat count one after another.
    tx.execute(text("SELECT FROM chat WHERE id = :id FOR UPDATE"), {"id": chat_id})
    removed: int | None = tx.scalar(
        REMOVE, {"chat_id": chat_id, "number": number, "version": version}
    )
    if removed is not None:
        count_removed(tx, chat_id, 1)
    return removed


def copy_messages(tx: Connection, rows: Iterable[RowValues]) -> None:
    """Store new messages by COPY, all or none; raises as PostgreSQL does on any bad row.

    The rows are taken while PostgreSQL stores those before them.
    """

    def lines() -> Iterator[str]:
        previous_version, times = (
            -1,
            "",
        )  # of the row before: all messages of a request have the same
        for chat_id, number, text_, folded, version in rows:
            if version != previous_version:
                previous_version, at = version, format_copy_time(version)
                times = f"{version}\t{at}\t{at}"
            texts = f"{escape_copy(text_)}\t{escape_copy(folded)}"
            yield f"{chat_id}\t{number}\t{times}\t{texts}\n"

    copy_rows(
        tx, "message (chat_id, number, version, created_at, updated_at, text, folded)", lines()
    )


def insert_message(tx: Connection, row: MessageRow, state: str = "stored") -> None:
    """Store one new message."""
    tx.execute(
        text(
            "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded,"
            " state) VALUES (:chat_id, :number, :version, :at, :at, :text, :folded,"
            " cast(:state AS row_state))"
        ),
        {**row._asdict(), "at": row.at, "state": state},
    )


def restore_rejected_message(
    tx: Connection, chat_id: int, number: int, at: datetime, new_text: str, folded: str
) -> int | None:
    """Store a message after all that was created then, and rejected; returns its version.

    None if its number's row is another one's, or says that it was not rejected.
    """
    values = {"chat_id": chat_id, "number": number, "at": at, "text": new_text, "folded": folded}
    version: int | None = tx.scalar(RESTORE_REJECTED, values)
    return version
