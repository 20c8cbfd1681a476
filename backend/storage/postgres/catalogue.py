"""Applications, chats and messages: reading, storing, changing and removing their rows."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, text

from backend.domain.events import from_micros
from backend.domain.model import Application, Chat, EntryId, Message, Parent
from backend.storage.postgres.copy import copy_rows, escape_copy, format_copy_time
from backend.storage.postgres.database import driver_rows, hot


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


class ChatRow(NamedTuple):
    """Chats `first` to `last` of an application, about to be stored."""

    application_id: int
    first: int
    last: int
    at: datetime


class StoredMessage(NamedTuple):
    """A message's row with what must stay inside: ids and state."""

    chat_id: int
    state: str
    message: Message


class StoredChat(NamedTuple):
    """A chat's row: the count columns as of the last sync, `removed` always exact."""

    id: int
    number: int
    removed: int
    state: str
    created_at: datetime
    updated_at: datetime


class StoredApplication(NamedTuple):
    """An application's row; `removed` counts its chats that are gone."""

    id: int
    token: str
    name: str
    removed: int
    created_at: datetime
    updated_at: datetime
    version: int


# -- applications ---------------------------------------------------------------------------------

_APPLICATION = """
    SELECT id, token, name, chats_removed AS removed, created_at, updated_at, version
    FROM application"""
APPLICATION = hot("application", _APPLICATION + " WHERE token = :token AND removed_at IS NULL")
APPLICATIONS = hot(
    "applications",
    _APPLICATION + " WHERE id > :after AND removed_at IS NULL ORDER BY id LIMIT :limit",
)


def insert_application(tx: Connection, token: str, name: str) -> StoredApplication:
    """Store a new application."""
    row = tx.execute(
        text(
            "INSERT INTO application (token, name, version)"
            " VALUES (:token, :name, (extract(epoch FROM now()) * 1000000)::bigint)"
            " RETURNING id, token, name, chats_removed, created_at, updated_at, version"
        ),
        {"token": token, "name": name},
    ).one()
    return StoredApplication(*row)


def get_application(connection: Connection, token: str) -> StoredApplication | None:
    """An application that is not removed."""
    row = connection.execute(APPLICATION, {"token": token}).one_or_none()
    return None if row is None else StoredApplication(*row)


def list_applications(connection: Connection, after: int, limit: int) -> list[StoredApplication]:
    """A page of applications in the order of their creation; `after` is the last one's id."""
    rows = connection.execute(APPLICATIONS, {"after": after, "limit": limit})
    return [StoredApplication(*row) for row in rows]


def rename_application(
    tx: Connection, token: str, name: str, version: int
) -> StoredApplication | None:
    """Rename an application that still has that version; None if it hasn't."""
    row = tx.execute(
        text(
            "UPDATE application SET name = :name, updated_at = now(),"
            " version = greatest(version + 1, (extract(epoch FROM now()) * 1000000)::bigint)"
            " WHERE token = :token AND version = :version AND removed_at IS NULL"
            " RETURNING id, token, name, chats_removed, created_at, updated_at, version"
        ),
        {"token": token, "name": name, "version": version},
    ).one_or_none()
    return None if row is None else StoredApplication(*row)


class ParentState(NamedTuple):
    """What SQL knows of a parent: its shard's epoch, and if it is there, its children's highest number."""

    epoch: int
    cursor: EntryId
    exists: bool
    removed: bool
    highest: int


APPLICATION_STATE = hot(
    "application_state",
    """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, a.id IS NOT NULL,
           a.removed_at IS NOT NULL,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0)
    FROM shard s LEFT JOIN application a ON a.token = :token WHERE s.number = :shard""",
)
CHAT_STATE = hot(
    "chat_state",
    """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, c.id IS NOT NULL,
           c.removed_at IS NOT NULL OR a.removed_at IS NOT NULL OR c.state <> 'stored',
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)
    FROM shard s LEFT JOIN application a ON a.token = :token
    LEFT JOIN chat c ON c.application_id = a.id AND c.number = :chat WHERE s.number = :shard""",
)


def get_parent_state(connection: Connection, shard: int, parent: Parent) -> ParentState:
    """What SQL knows of a parent, in one statement: one snapshot."""
    statement = APPLICATION_STATE if parent.chat is None else CHAT_STATE
    values = {"shard": shard, "token": parent.token, "chat": parent.chat}
    epoch, cursor_epoch, cursor_sequence, exists, removed, highest = connection.execute(
        statement, values if parent.chat is not None else {k: values[k] for k in ("shard", "token")}
    ).one()
    return ParentState(
        epoch, EntryId(cursor_epoch, cursor_sequence), exists, bool(removed), highest
    )


# -- chats ----------------------------------------------------------------------------------------

_CHAT = """
    SELECT c.id, c.number, c.messages_removed, c.state, c.created_at, c.updated_at
    FROM chat c JOIN application a ON a.id = c.application_id
    WHERE a.token = :token AND a.removed_at IS NULL"""
CHAT = hot("chat", _CHAT + " AND c.number = :chat")
CHATS = hot(
    "chats",
    _CHAT + " AND c.number > :after AND c.state = 'stored' ORDER BY c.number LIMIT :limit",
)
CHAT_IDS = hot(
    "chat_ids",
    """
    SELECT a.token, c.number, c.id, c.state = 'stored' AND a.removed_at IS NULL
    FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
    JOIN application a ON a.token = wanted.token
    JOIN chat c ON c.application_id = a.id AND c.number = wanted.number""",
)
APPLICATION_IDS = hot(
    "application_ids",
    "SELECT token, id, removed_at IS NULL FROM application"
    " WHERE token = ANY(cast(:tokens AS text[]))",
)


def get_chat(connection: Connection, token: str, number: int) -> StoredChat | None:
    """A chat's row, in whatever state it is."""
    row = connection.execute(CHAT, {"token": token, "chat": number}).one_or_none()
    return None if row is None else StoredChat(*row)


def list_chats(connection: Connection, token: str, after: int, limit: int) -> list[StoredChat]:
    """A page of an application's chats, by number."""
    rows = connection.execute(CHATS, {"token": token, "after": after, "limit": limit})
    return [StoredChat(*row) for row in rows]


def application_ids(tx: Connection, tokens: Iterable[str]) -> dict[str, tuple[int, bool]]:
    """For each known token the application's id, and whether it is alive."""
    rows = tx.execute(APPLICATION_IDS, {"tokens": list(tokens)})
    return {token: (id_, alive) for token, id_, alive in rows}


def chat_ids(
    tx: Connection, chats: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, bool]]:
    """For each known (token, number) the chat's id, and whether it and its application are alive."""
    rows = tx.execute(
        CHAT_IDS, {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
    )
    return {(token, number): (id_, alive) for token, number, id_, alive in rows}


def insert_chats(tx: Connection, rows: Sequence[ChatRow]) -> tuple[int, list[tuple[int, int]]]:
    """Store chats. Returns how many, and the (application id, number) that are taken by *another* chat.

    One that is there already with the same creation time is the same chat, and skipped.
    """
    values = {
        "applications": [r.application_id for r in rows],
        "firsts": [r.first for r in rows],
        "lasts": [r.last for r in rows],
        "times": [r.at for r in rows],
    }
    wanted = """unnest(cast(:applications AS bigint[]), cast(:firsts AS bigint[]),
        cast(:lasts AS bigint[]), cast(:times AS timestamptz[])) AS w(application, first, last, at)
        CROSS JOIN LATERAL generate_series(w.first, w.last) AS g(number)"""
    stored = tx.execute(
        text(
            "INSERT INTO chat (application_id, number, created_at, updated_at)"
            f" SELECT w.application, g.number, w.at, w.at FROM {wanted} ON CONFLICT DO NOTHING"
        ),
        values,
    ).rowcount
    if stored == sum(r.last - r.first + 1 for r in rows):
        return stored, []
    taken = tx.execute(
        text(
            f"SELECT c.application_id, c.number FROM {wanted}"
            " JOIN chat c ON c.application_id = w.application AND c.number = g.number"
            " WHERE c.created_at <> w.at"
        ),
        values,
    )
    return stored, [(application_id, number) for application_id, number in taken]


HAS_MESSAGES = hot(
    "has_messages",
    "SELECT EXISTS (SELECT FROM message WHERE chat_id = :id AND state = 'stored')",
)
HAS_CHATS = hot(
    "has_chats",
    "SELECT EXISTS (SELECT FROM chat WHERE application_id = :id AND state = 'stored')",
)


def tombstone_application(tx: Connection, id_: int, *, cascade: bool) -> bool:
    """Leave a tombstone for an application; False, changing nothing, if it has chats.

    With `cascade` it may have some. What belonged to it is left to be dropped (see `removal`).
    """
    if not cascade and tx.scalar(HAS_CHATS, {"id": id_}):
        return False
    tx.execute(
        text(
            "UPDATE application SET removed_at = now(), updated_at = now(), rows_left = true"
            " WHERE id = :id"
        ),
        {"id": id_},
    )
    return True


def tombstone_chat(tx: Connection, id_: int, *, cascade: bool) -> bool:
    """Leave a tombstone for a chat, counted at its application; False if it has messages.

    With `cascade` it may have some. What belonged to it is left to be dropped (see `removal`).
    """
    if not cascade and tx.scalar(HAS_MESSAGES, {"id": id_}):
        return False
    tx.execute(
        text(
            "WITH gone AS (UPDATE chat SET state = 'removed', removed_at = now(),"
            " updated_at = now(), rows_left = true WHERE id = :id RETURNING application_id)"
            " UPDATE application SET chats_removed = chats_removed + 1"
            " WHERE id = (SELECT application_id FROM gone)"
        ),
        {"id": id_},
    )
    return True


# -- messages -------------------------------------------------------------------------------------

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
MESSAGE_TIMES = hot(
    "message_times",
    """
    SELECT m.chat_id, m.number, m.created_at
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
    JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number""",
)
NEXT_VERSION = "greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
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


def get_message(
    connection: Connection, token: str, chat_number: int, number: int
) -> StoredMessage | None:
    """A message's row, in whatever state it is; None also when its chat or application is gone."""
    row = connection.execute(
        MESSAGE, {"token": token, "chat": chat_number, "number": number}
    ).one_or_none()
    return None if row is None else StoredMessage(row[0], row[1], Message(*row[2:]))


DEAD_NUMBERS = hot(
    "dead_numbers",
    """
    SELECT m.number
    FROM application a JOIN chat c ON c.application_id = a.id JOIN message m ON m.chat_id = c.id
    WHERE a.token = :token AND c.number = :chat AND m.number BETWEEN :first AND :last
      AND m.state = 'dead' ORDER BY m.number""",
)


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


def _messages(rows: CursorResult[Any]) -> list[Message]:
    return list(starmap(Message, driver_rows(rows)))


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


def count_indexed(connection: Connection, chat_id: int, first: int, last: int) -> int:
    """How many of these numbers of a chat an index has to know, once it has caught up."""
    values = {"chat_id": chat_id, "first": first, "last": last}
    return int(connection.scalar(COUNT_INDEXED, values) or 0)


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


def count_removed(tx: Connection, chat_id: int, count: int) -> None:
    """Count numbers of a chat that hold no message any more, in the transaction that ends them."""
    tx.execute(
        text("UPDATE chat SET messages_removed = messages_removed + :count WHERE id = :id"),
        {"id": chat_id, "count": count},
    )


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


def message_times(
    tx: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], datetime]:
    """The creation times of those (chat id, number) that have a row."""
    rows = tx.execute(
        MESSAGE_TIMES, {"chats": [c for c, _ in keys], "numbers": [n for _, n in keys]}
    )
    return {(chat_id, number): at for chat_id, number, at in rows}


def to_application(row: StoredApplication, chats_count: int) -> Application:
    """The row as its users see it."""
    return Application(
        row.token,
        row.name,
        chats_count,
        row.created_at,
        row.updated_at,
        row.version,
    )


def to_chat(row: StoredChat, messages_count: int) -> Chat:
    """The row as its users see it."""
    return Chat(row.number, messages_count, row.created_at, row.updated_at)
