"""Messages: their rows, read, searched, stored, edited and removed."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnClause,
    RowMapping,
    Select,
    any_,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from backend.domain.events import MessagesCreated, from_micros
from backend.domain.folding import fold
from backend.domain.model import CONTENT as CONTENT  # re-exported: its columns
from backend.domain.model import Message, MessageChanges, MessageRange, NewMessage
from backend.storage.postgres import message_blocks
from backend.storage.postgres.chats import count_removed, lock_chat
from backend.storage.postgres.copy import copy_rows, escape_copy, format_copy_time
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import (
    DEAD,
    NEXT_VERSION,
    REMOVED,
    STORED,
    RowMapper,
    bigints,
    field_names,
    hot,
)
from backend.storage.postgres.tables import application, chat, message


class MessageRow(NamedTuple):
    """A message about to be stored. `version` is its first: its creation in microseconds since 1970."""

    chat_id: int
    number: int
    text: str
    folded: str
    version: int

    @property
    def at(self) -> datetime:
        """The time of its creation."""
        return from_micros(self.version)

    @classmethod
    def new(cls, chat_id: int, number: int, new_message: NewMessage, version: int) -> "MessageRow":
        """The row of a new message."""
        return cls(chat_id, number, version=version, **_written(new_message))

    def emptied(self) -> "MessageRow":
        """The same row without what the user wrote."""
        written: dict[str, Any] = dict.fromkeys((*CONTENT, "folded"), "")
        return self._replace(**written)


# A MessageRow's values, where there are too many to name each.
RowValues = tuple[int, int, str, str, int]


class StoredMessage(NamedTuple):
    """A message with the columns that stay inside: its chat's id and its state."""

    chat_id: int
    state: str
    message: Message


class ImportedMessage(NamedTuple):
    """A message about to be stored as it was exported; `text` is None for a tombstone.

    `first` is the first of the numbers that the tombstone stands for, if it stands for several.
    """

    chat_id: int
    number: int
    first: int | None
    text: str | None
    folded: str
    created_at: datetime
    updated_at: datetime


class ExportedMessage(NamedTuple):
    """A message as it is exported, with the fields of an imported one. Times are RFC 3339 in UTC."""

    chat_id: int
    number: int
    first: int | None
    text: str | None
    created_at: str
    updated_at: str


FIELDS = field_names(Message)
"""The columns of a message as it is read."""
_MESSAGES = RowMapper(Message)
_columns = [message.c[name] for name in FIELDS]
_chat_id = message.c.chat_id == bindparam("chat_id")
_stored = select(*_columns).where(_chat_id, message.c.state == STORED).limit(bindparam("limit"))
_of_chat = _stored.order_by(message.c.number)
_after = message.c.number > bindparam("after")
_in_bounds = (_after, message.c.number < bindparam("before"))
# strpos, not LIKE: the keyword is a text, not a pattern. COLLATE "C": bytes, whatever the database's.
_contains_keyword = func.strpos(message.c.folded.collate("C"), bindparam("keyword")) > 0


def _of_a_token(*columns: Any) -> Select[Any]:
    """Columns of a chat's messages, by the application's token and the chat's number."""
    return (
        select(*columns)
        .select_from(application)
        .join(chat, chat.c.application_id == application.c.id)
        .join(message, message.c.chat_id == chat.c.id)
        .where(application.c.token == bindparam("token"), chat.c.number == bindparam("chat"))
    )


MESSAGE = hot(
    "message",
    _of_a_token(message.c.chat_id, message.c.state, *_columns).where(
        application.c.removed_at.is_(None),
        chat.c.state == STORED,
        message.c.number == bindparam("number"),
    ),
)
MESSAGES = hot("messages", _of_chat.where(*_in_bounds))
NUMBERS = hot("numbers", MESSAGES.with_only_columns(message.c.number))
NEWEST_MESSAGES = hot(
    "newest_messages", _stored.where(*_in_bounds).order_by(message.c.number.desc())
)
_numbered = message.c.number == any_(bigints("numbers"))
NUMBERED_MESSAGES = hot("numbered_messages", _of_chat.where(_numbered))
SEARCH_MESSAGES = hot("search_messages", _of_chat.where(_after, _contains_keyword))
SEARCH_RANGE = hot("search_range", SEARCH_MESSAGES.where(message.c.number <= bindparam("through")))
# The last number of the next `rows` rows, or none if there are fewer. Reads the primary key only.
RANGE_END = hot(
    "range_end",
    select(message.c.number)
    .where(_chat_id, message.c.number > bindparam("after"))
    .order_by(message.c.number)
    .offset(bindparam("rows"))
    .limit(1),
)
FILTER_CANDIDATES = hot(
    "filter_candidates",
    _of_chat.where(_numbered, _contains_keyword),
)
_in_range = message.c.number.between(bindparam("first"), bindparam("last"))
COUNT_INDEXED = hot(
    "count_indexed",
    select(func.count())
    .select_from(message)
    .where(_chat_id, _in_range, message.c.state.in_([STORED, REMOVED])),
)
DEAD_NUMBERS = hot(
    "dead_numbers",
    _of_a_token(message.c.number)
    .where(_in_range, message.c.state == DEAD)
    .order_by(message.c.number),
)
# text(): a join with two arrays reads worse as an expression.
MESSAGE_TIMES = hot(
    "message_times",
    text(
        """
        SELECT m.chat_id, m.number, m.created_at
        FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
        JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number"""
    ),
)
DELETE_LOST = hot(
    "delete_lost",
    text(
        """
        DELETE FROM message m
        USING unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS found(chat_id, number)
        WHERE m.chat_id = found.chat_id AND m.number = found.number AND m.state = 'lost'
        RETURNING m.chat_id"""
    ),
)
INSERT = insert(message)
# The parameters of an UPDATE must not have the names of its columns.
_by_number = (
    message.c.chat_id == bindparam("of_chat"),
    message.c.number == bindparam("of_number"),
)
_next_version: ColumnClause[int] = literal_column(NEXT_VERSION)
# Redis's clock, which creation times come from, may be ahead of PostgreSQL's.
_not_before_creation = func.greatest(func.now(), message.c.created_at)
_unchanged = (*_by_number, message.c.version == bindparam("old_version"), message.c.state == STORED)
EDIT = hot(
    "edit",
    update(message)
    .where(*_unchanged)
    .values(
        **{name: bindparam(f"new_{name}") for name in (*CONTENT, "folded")},
        updated_at=_not_before_creation,
        version=_next_version,
    )
    .returning(*_columns),
)
_remove = (
    update(message)
    .values(
        **dict.fromkeys((*CONTENT, "folded"), ""),
        state=REMOVED,
        removed_at=func.now(),
        updated_at=_not_before_creation,
        version=_next_version,
    )
    .returning(message.c.number, message.c.version)
)
REMOVE = hot("remove", _remove.where(*_unchanged))
REMOVE_MANY = hot(
    "remove_many",
    _remove.where(
        message.c.chat_id == bindparam("of_chat"),
        message.c.number == any_(bigints("numbers")),
        message.c.state == STORED,
    ),
)
COUNT_BETWEEN = (
    select(func.count())
    .select_from(message)
    .where(
        _chat_id,
        *_in_bounds,
        message.c.state == STORED,
        message.c.created_at >= bindparam("since"),
        message.c.created_at < bindparam("until"),
    )
)
RESTORE_REJECTED = hot(
    "restore_rejected",
    update(message)
    .where(*_by_number, message.c.state == DEAD, message.c.created_at == bindparam("at"))
    .values(
        **{name: bindparam(f"new_{name}") for name in (*CONTENT, "folded")},
        state=STORED,
        version=_next_version,
    )
    .returning(message.c.version),
)


def _written(new_message: NewMessage) -> dict[str, str]:
    """What a new message writes into its row, by column."""
    return {"text": new_message, "folded": fold(new_message)}


def to_message(row: RowMapping) -> Message:
    """The message of a row that has other columns, too."""
    return Message(**{name: row[name] for name in FIELDS})


def get_message(
    connection: Connection, token: str, chat_number: int, number: int
) -> StoredMessage | None:
    """A message's row in any state; None also if its chat or its application is removed."""
    values = {"token": token, "chat": chat_number, "number": number}
    row = connection.execute(MESSAGE, values).mappings().one_or_none()
    if row is None:
        return None
    return StoredMessage(row["chat_id"], row["state"], to_message(row))


def dead_numbers(
    connection: Connection, token: str, chat_number: int, first: int, last: int
) -> list[int]:
    """The numbers of this range of a chat whose creation was rejected."""
    values = {"token": token, "chat": chat_number, "first": first, "last": last}
    return list(connection.scalars(DEAD_NUMBERS, values))


def list_messages(
    connection: Connection,
    chat_id: int,
    within: MessageRange,
    limit: int,
    *,
    newest_first: bool = False,
) -> list[Message]:
    """A page of a chat's messages by number, ascending or descending. Its place does not change its cost."""
    if within.has_times:
        return message_blocks.list_between_times(
            connection, chat_id, within, limit, newest_first=newest_first
        )
    values = {
        "chat_id": chat_id,
        "after": within.after,
        "before": within.before,
        "limit": limit,
    }
    statement = NEWEST_MESSAGES if newest_first else MESSAGES
    return _MESSAGES.all(connection.execute(statement, values))


def list_numbers(
    connection: Connection, chat_id: int, within: MessageRange, limit: int
) -> list[int]:
    """The numbers of the first messages of `list_messages`, ascending; reads no text."""
    if within.has_times:
        return message_blocks.list_numbers_between_times(connection, chat_id, within, limit)
    values = {
        "chat_id": chat_id,
        "after": within.after,
        "before": within.before,
        "limit": limit,
    }
    return list(connection.scalars(NUMBERS, values))


def messages_with_numbers(
    connection: Connection, chat_id: int, numbers: Collection[int]
) -> list[Message]:
    """Those of a chat's messages that have these numbers, by number."""
    values = {"chat_id": chat_id, "numbers": list(numbers), "limit": len(numbers)}
    return _MESSAGES.all(connection.execute(NUMBERED_MESSAGES, values))


def search_messages(
    connection: Connection, chat_id: int, keyword: str, after: int, limit: int
) -> list[Message]:
    """A chat's messages whose folded text contains the folded keyword, by number."""
    values = {"chat_id": chat_id, "keyword": keyword, "after": after, "limit": limit}
    return _MESSAGES.all(connection.execute(SEARCH_MESSAGES, values))


def search_range(
    connection: Connection, chat_id: int, keyword: str, after: int, through: int, limit: int
) -> list[Message]:
    """As `search_messages`, up to the number `through`."""
    values = {
        "chat_id": chat_id,
        "keyword": keyword,
        "after": after,
        "through": through,
        "limit": limit,
    }
    return _MESSAGES.all(connection.execute(SEARCH_RANGE, values))


def range_end(connection: Connection, chat_id: int, after: int, rows: int) -> int | None:
    """The number of the last of the chat's next `rows` rows after `after`; None if there are fewer."""
    values = {"chat_id": chat_id, "after": after, "rows": rows - 1}
    end: int | None = connection.scalar(RANGE_END, values)
    return end


def filter_candidates(
    connection: Connection, chat_id: int, numbers: Sequence[int], keyword: str, limit: int
) -> list[Message]:
    """The messages of a chat with these numbers that `search_messages` would find, by number."""
    values = {"chat_id": chat_id, "numbers": list(numbers), "keyword": keyword, "limit": limit}
    return _MESSAGES.all(connection.execute(FILTER_CANDIDATES, values))


def count_indexed(connection: Connection, chat_id: int, first: int, last: int) -> int:
    """How many numbers of this range of a chat an index has to hold once it has caught up."""
    values = {"chat_id": chat_id, "first": first, "last": last}
    return int(connection.scalar(COUNT_INDEXED, values) or 0)


def message_times(
    tx: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], datetime]:
    """The creation times of those (chat id, number) that have a row."""
    values = {"chats": [chat_id for chat_id, _ in keys], "numbers": [number for _, number in keys]}
    rows = tx.execute(MESSAGE_TIMES, values)
    return {(row.chat_id, row.number): row.created_at for row in rows}


def delete_lost(tx: Connection, keys: Sequence[tuple[int, int]]) -> None:
    """Delete the rows of those (chat id, number) whose state is `lost`: their messages were found."""
    values = {"chats": [chat_id for chat_id, _ in keys], "numbers": [number for _, number in keys]}
    for chat_id, count in Counter(tx.scalars(DELETE_LOST, values)).items():
        count_removed(tx, chat_id, -count)


def edit_message(
    tx: Connection, chat_id: int, current: Message, changes: MessageChanges
) -> Message | None:
    """Change fields of a message that still has the version of `current`; None if it does not."""
    content = {name: getattr(current, name) for name in CONTENT} | dict(changes)
    values = {
        "of_chat": chat_id,
        "of_number": current.number,
        "old_version": current.version,
        **{f"new_{name}": value for name, value in content.items()},
        "new_folded": fold(content["text"]),
    }
    return _MESSAGES.one_or_none(tx.execute(EDIT, values))


def remove_message(tx: Connection, chat_id: int, number: int, version: int) -> int | None:
    """Turn a message that still has that version into a tombstone, counted at its chat.

    Returns the tombstone's version; None, changing nothing, if the message does not have that version.
    """
    # The parent's row lock first: removals and dead letters of one chat count one after another.
    lock_chat(tx, chat_id)
    values = {"of_chat": chat_id, "of_number": number, "old_version": version}
    removed = tx.execute(REMOVE, values).one_or_none()
    if removed is None:
        return None
    count_removed(tx, chat_id, 1)
    return int(removed.version)


def remove_messages(
    tx: Connection, chat_id: int, numbers: Collection[int]
) -> list[tuple[int, int]]:
    """Turn those of a chat's numbers that are messages into tombstones, counted at their chat.

    Returns the number and the version of each tombstone.
    """
    lock_chat(tx, chat_id)  # as in `remove_message`
    rows = tx.execute(REMOVE_MANY, {"of_chat": chat_id, "numbers": list(numbers)}).all()
    if rows:
        count_removed(tx, chat_id, len(rows))
    return [(row.number, row.version) for row in rows]


def count_messages(connection: Connection, chat_id: int, within: MessageRange) -> int:
    """How many messages of a chat are in a range."""
    values = {
        "chat_id": chat_id,
        "after": within.after,
        "before": within.before,
        "since": within.since or "-infinity",
        "until": within.until or "infinity",
    }
    return int(connection.scalar(COUNT_BETWEEN, values) or 0)


def fold_texts(event: MessagesCreated) -> list[str]:
    """The folded text of each message that an event creates."""
    return list(map(fold, event.messages))


def keys_and_versions(rows: Iterable[RowValues]) -> list[tuple[int, int, int]]:
    """Each row's chat, number and version, as the outbox takes them."""
    return [(chat_id, number, version) for chat_id, number, _, _, version in rows]


COPY_COLUMNS = ("chat_id", "number", "version", "created_at", "updated_at", "text", "folded")


def copy_messages(tx: Connection, rows: Iterable[RowValues]) -> None:
    """Store new messages by COPY, all or none; raises as PostgreSQL does on any bad row.

    COPY, since INSERT takes five to ten times as long. The rows are read while PostgreSQL stores those
    before them.
    """

    def lines() -> Iterator[str]:
        # Of the row before: all messages of a request have the same.
        previous_version, times = -1, ""
        for chat_id, number, text_, folded, version in rows:
            if version != previous_version:
                previous_version, at = version, format_copy_time(version)
                times = f"{version}\t{at}\t{at}"
            texts = f"{escape_copy(text_)}\t{escape_copy(folded)}"
            yield f"{chat_id}\t{number}\t{times}\t{texts}\n"

    copy_rows(tx, "message", COPY_COLUMNS, lines())


def insert_message(tx: Connection, row: MessageRow, state: str = "stored") -> None:
    """Store one new message."""
    times = {"created_at": row.at, "updated_at": row.at}
    tx.execute(INSERT, {**row._asdict(), **times, "state": state})


def restore_rejected_message(
    tx: Connection, chat_id: int, number: int, at: datetime, new_message: NewMessage
) -> int | None:
    """Store a message that was created then and rejected; returns its version.

    None if the number's row is another message's, or was not rejected.
    """
    values = {
        "of_chat": chat_id,
        "of_number": number,
        "at": at,
        **{f"new_{name}": value for name, value in _written(new_message).items()},
    }
    version: int | None = tx.scalar(RESTORE_REJECTED, values)
    return version
