"""Chats: their rows, read, stored and removed."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Text, any_, bindparam, exists, or_, select, text, update

from backend.domain.model import Chat, Parent
from backend.storage.postgres.applications import ParentId
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import STORED, RowMapper, bigints, hot, row_columns
from backend.storage.postgres.tables import application, chat, message

SKIPPED_IDS = 1_000_000_000  # more than can be created while PostgreSQL is behind


class ChatRow(NamedTuple):
    """The chats `first` to `last` of an application, about to be stored."""

    application_id: int
    first: int
    last: int
    at: datetime


class StoredChat(NamedTuple):
    """A chat's row. `messages_removed` counts its messages that hold nothing any more; always exact."""

    id: int
    number: int
    messages_removed: int
    state: str
    created_at: datetime
    updated_at: datetime
    xmin: str
    """The transaction that wrote the row."""


class InsertedChats(NamedTuple):
    """What became of chats that were about to be stored: how many are, and some by (application id, number).

    `taken` are numbers that *another* chat has; `lost` are stored chats whose rows had the state `lost`.
    """

    stored: int
    taken: list[tuple[int, int]]
    lost: list[tuple[int, int]]


class _ChatId(NamedTuple):
    token: str
    number: int
    id: int
    alive: bool


_CHATS = RowMapper(StoredChat)
_CHAT_IDS = RowMapper(_ChatId)
_chat = (
    select(*row_columns(chat, StoredChat))
    .join_from(chat, application, application.c.id == chat.c.application_id)
    .where(application.c.token == bindparam("token"), application.c.removed_at.is_(None))
)
CHAT = hot("chat", _chat.where(chat.c.number == bindparam("chat")))
CHATS = hot(
    "chats",
    _chat.where(chat.c.number > bindparam("after"), chat.c.state == STORED)
    .order_by(chat.c.number)
    .limit(bindparam("limit")),
)
# text(): a join with two arrays reads worse as an expression.
CHAT_IDS = hot(
    "chat_ids",
    text(
        """
        SELECT a.token, c.number, c.id, c.state = 'stored' AND a.removed_at IS NULL AS alive
        FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
        JOIN application a ON a.token = wanted.token
        JOIN chat c ON c.application_id = a.id AND c.number = wanted.number"""
    ),
)
CHAT_PARENTS = hot(
    "chat_parents",
    select(chat.c.id, application.c.token, chat.c.number)
    .join_from(chat, application, application.c.id == chat.c.application_id)
    .where(chat.c.id == any_(bigints("ids"))),
)
_only_token = bindparam("token", type_=Text)
CHATS_CREATED_BEFORE = hot(
    "chats_created_before",
    select(chat.c.id, application.c.token, chat.c.number)
    .join_from(chat, application, application.c.id == chat.c.application_id)
    .where(
        chat.c.id > bindparam("after"),
        chat.c.created_at < bindparam("until"),
        or_(_only_token.is_(None), application.c.token == _only_token),
        chat.c.state == STORED,
        application.c.removed_at.is_(None),
    )
    .order_by(chat.c.id)
    .limit(bindparam("limit")),
)
# text(): sequences have no tables.
SKIP_IDS = text(
    """
    SELECT setval(pg_get_serial_sequence('chat', 'id'),
                  nextval(pg_get_serial_sequence('chat', 'id')) + :count)"""
)
HAS_MESSAGES = hot(
    "has_messages",
    select(exists().where(message.c.chat_id == bindparam("id"), message.c.state == STORED)),
)
IDS_OF_APPLICATION = (
    select(chat.c.id)
    .join_from(chat, application, application.c.id == chat.c.application_id)
    .where(application.c.token == bindparam("token"))
    .order_by(chat.c.id)
)
# text(): ranges of numbers, made by the server.
_WANTED = """
    unnest(cast(:applications AS bigint[]), cast(:firsts AS bigint[]), cast(:lasts AS bigint[]),
           cast(:times AS timestamptz[])) AS w(application, first, last, at)
    CROSS JOIN LATERAL generate_series(w.first, w.last) AS g(number)"""
INSERT = text(
    f"""
    INSERT INTO chat (application_id, number, created_at, updated_at)
    SELECT w.application, g.number, w.at, w.at FROM {_WANTED} ON CONFLICT DO NOTHING"""
)
# text(): two statements in one.
DELETE_LOST = text(
    f"""
    WITH found AS (
        DELETE FROM chat c USING {_WANTED}
        WHERE c.application_id = w.application AND c.number = g.number AND c.state = 'lost'
        RETURNING c.application_id, c.number),
    counted AS (
        UPDATE application a SET chats_removed = chats_removed - f.count
        FROM (SELECT application_id, count(*) AS count FROM found GROUP BY 1) f
        WHERE a.id = f.application_id)
    SELECT application_id, number FROM found"""
)
TAKEN = text(
    f"""
    SELECT c.application_id, c.number
    FROM {_WANTED} JOIN chat c ON c.application_id = w.application AND c.number = g.number
    WHERE c.created_at <> w.at"""
)
# text(): two updates in one statement.
TOMBSTONE = text(
    """
    WITH gone AS (UPDATE chat SET state = 'removed', removed_at = now(),
                         updated_at = greatest(now(), created_at), rows_left = true
                  WHERE id = :id RETURNING application_id)
    UPDATE application SET chats_removed = chats_removed + 1
    WHERE id = (SELECT application_id FROM gone)"""
)
COUNT_REMOVED = (
    update(chat)
    .where(chat.c.id == bindparam("of_id"))
    .values(messages_removed=chat.c.messages_removed + bindparam("count"))
)
LOCK = select(chat.c.id).where(chat.c.id == bindparam("id")).with_for_update()


def get_chat(connection: Connection, token: str, number: int) -> StoredChat | None:
    """A chat's row in any state; None also if its application is removed."""
    return _CHATS.one_or_none(connection.execute(CHAT, {"token": token, "chat": number}))


def list_chats(connection: Connection, token: str, after: int, limit: int) -> list[StoredChat]:
    """A page of an application's stored chats, by number."""
    values = {"token": token, "after": after, "limit": limit}
    return _CHATS.all(connection.execute(CHATS, values))


def chat_ids(tx: Connection, chats: Sequence[tuple[str, int]]) -> dict[tuple[str, int], ParentId]:
    """The row of each known (token, number), removed ones included."""
    values = {"tokens": [token for token, _ in chats], "numbers": [number for _, number in chats]}
    rows = _CHAT_IDS.all(tx.execute(CHAT_IDS, values))
    return {(row.token, row.number): ParentId(row.id, row.alive) for row in rows}


def list_chat_ids(connection: Connection, token: str) -> list[int]:
    """The ids of an application's chats, in order."""
    return list(connection.scalars(IDS_OF_APPLICATION, {"token": token}))


def chat_parents(connection: Connection, chat_ids: Iterable[int]) -> dict[int, tuple[str, int]]:
    """The token and the number of each of these chats."""
    rows = connection.execute(CHAT_PARENTS, {"ids": list(chat_ids)})
    return {row.id: (row.token, row.number) for row in rows}


def insert_chats(tx: Connection, rows: Sequence[ChatRow]) -> InsertedChats:
    """Store chats. One that is there already with the same creation time is the same chat, and skipped."""
    values = {
        "applications": [row.application_id for row in rows],
        "firsts": [row.first for row in rows],
        "lasts": [row.last for row in rows],
        "times": [row.at for row in rows],
    }
    stored = tx.execute(INSERT, values).rowcount
    if stored == sum(row.last - row.first + 1 for row in rows):
        return InsertedChats(stored, [], [])
    lost = [(row.application_id, row.number) for row in tx.execute(DELETE_LOST, values)]
    if lost:
        stored += tx.execute(INSERT, values).rowcount
    taken = [(row.application_id, row.number) for row in tx.execute(TAKEN, values)]
    return InsertedChats(stored, taken, lost)


def chats_created_before(
    connection: Connection, until: datetime, token: str | None, after: int, limit: int
) -> list[tuple[int, Parent]]:
    """A page of the chats, of all or of one application, created before that time, with their ids, by id.

    `after` is the previous one's id.
    """
    values = {"until": until, "token": token, "after": after, "limit": limit}
    rows = connection.execute(CHATS_CREATED_BEFORE, values)
    return [(row.id, Parent(row.token, row.number)) for row in rows]


def lock_chat(tx: Connection, id_: int) -> None:
    """Lock a chat's row until the transaction ends."""
    tx.execute(LOCK, {"id": id_})


def tombstone_chat(tx: Connection, id_: int, *, cascade: bool) -> bool:
    """Turn a chat into a tombstone, counted at its application; False if it has messages.

    With `cascade` it may have messages: their rows stay, for `cascade` to delete.
    """
    if not cascade and tx.scalar(HAS_MESSAGES, {"id": id_}):
        return False
    tx.execute(TOMBSTONE, {"id": id_})
    return True


def count_removed(tx: Connection, chat_id: int, count: int) -> None:
    """Count numbers of a chat that hold no message any more, in the transaction that removes them."""
    tx.execute(COUNT_REMOVED, {"of_id": chat_id, "count": count})


def to_chat(row: StoredChat, messages_count: int) -> Chat:
    """The chat as its users see it."""
    return Chat(
        number=row.number,
        messages_count=messages_count,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def skip_ids(tx: Connection) -> None:
    """Give the chats that are stored from now on ids that no chat had which SQL has forgotten."""
    tx.execute(SKIP_IDS, {"count": SKIPPED_IDS})
