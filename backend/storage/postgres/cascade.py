"""Cascades: what is left of removed applications and chats, and its deletion."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import any_, bindparam, delete, exists, func, null, select, text, update

from backend.domain.model import Parent
from backend.storage.postgres import message_blocks
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper, bigints, hot
from backend.storage.postgres.tables import application, chat, message


class PendingCascade(NamedTuple):
    """A removed parent that rows may be left of; `id` is its row's, `chat` is None for an application."""

    token: str
    chat: int | None
    id: int

    @property
    def parent(self) -> Parent:
        """The parent's name."""
        return Parent(self.token, self.chat)


class DeletedMessage(NamedTuple):
    """A message whose row was deleted; `shown` if it could be read until then."""

    chat_id: int
    number: int
    version: int
    shown: bool


_PENDING = RowMapper(PendingCascade)
_DELETED = RowMapper(DeletedMessage)
# text(): two limits, so that each index is read only as far as needed.
PENDING_CASCADES = hot(
    "pending_cascades",
    text(
        """
        (SELECT a.token, NULL::bigint AS chat, a.id FROM application a WHERE a.rows_left
         ORDER BY a.id LIMIT :limit)
        UNION ALL
        (SELECT a.token, c.number, c.id FROM chat c JOIN application a ON a.id = c.application_id
         WHERE c.rows_left ORDER BY c.id LIMIT :limit)
        LIMIT :limit"""
    ),
)
_token = application.c.token == bindparam("token")
PENDING_APPLICATION_CASCADE = hot(
    "pending_application_cascade",
    select(application.c.token, null().label("chat"), application.c.id).where(
        _token, application.c.rows_left
    ),
)
PENDING_CHAT_CASCADE = hot(
    "pending_chat_cascade",
    select(application.c.token, chat.c.number.label("chat"), chat.c.id)
    .join_from(application, chat, chat.c.application_id == application.c.id)
    .where(_token, chat.c.number == bindparam("chat"), chat.c.rows_left),
)
LOCK_REMOVED_CHAT = hot(
    "lock_removed_chat",
    select(chat.c.id)
    .where(chat.c.id == bindparam("id"), chat.c.rows_left)
    .with_for_update(skip_locked=True),
)
LOCK_SOME_CHATS = hot(
    "lock_some_chats",
    select(chat.c.id, chat.c.number)
    .where(chat.c.application_id == bindparam("id"))
    .order_by(chat.c.number)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True),
)
# text(): a limit in each chat and over all, so that the plan reads the index only as far as needed.
DELETE_MESSAGES = hot(
    "delete_messages",
    text(
        """
        WITH chosen AS (
            SELECT m.chat_id, m.number
            FROM unnest(cast(:chats AS bigint[])) AS c(id)
            CROSS JOIN LATERAL (SELECT chat_id, number FROM message WHERE chat_id = c.id
                                ORDER BY number LIMIT :limit) m
            LIMIT :limit)
        DELETE FROM message m USING chosen d WHERE m.chat_id = d.chat_id AND m.number = d.number
        RETURNING m.chat_id, m.number, m.version, m.state = 'stored' AS shown"""
    ),
)
DELETE_CHATS = delete(chat).where(chat.c.id == any_(bigints("ids")))
FINISH_CHAT = update(chat).where(chat.c.id == bindparam("of_id")).values(rows_left=False)
FINISH_APPLICATION = (
    update(application)
    .where(
        application.c.id == bindparam("of_id"),
        ~exists().where(chat.c.application_id == bindparam("of_id")),
    )
    .values(rows_left=False)
)
COUNT_CHAT_MESSAGES = hot(
    "count_chat_messages",
    select(func.count()).select_from(message).where(message.c.chat_id == bindparam("id")),
)
# text(): one count a chat, so that each is read by the index.
COUNT_APPLICATION_MESSAGES = hot(
    "count_application_messages",
    text(
        """
        SELECT coalesce(sum((SELECT count(*) FROM message m WHERE m.chat_id = c.id)), 0)
        FROM chat c WHERE c.application_id = :id"""
    ),
)


def list_pending_cascades(connection: Connection, limit: int) -> list[PendingCascade]:
    """Some removed parents that rows may be left of."""
    return _PENDING.all(connection.execute(PENDING_CASCADES, {"limit": limit}))


def find_pending_cascade(connection: Connection, parent: Parent) -> PendingCascade | None:
    """A removed parent that rows may be left of; None if it is not removed, or nothing is left."""
    token, chat = parent
    if chat is None:
        result = connection.execute(PENDING_APPLICATION_CASCADE, {"token": token})
    else:
        result = connection.execute(PENDING_CHAT_CASCADE, {"token": token, "chat": chat})
    return _PENDING.one_or_none(result)


def lock_removed_chat(tx: Connection, id_: int) -> bool:
    """Lock a removed chat's row; False if another has it locked, or nothing is left of the chat."""
    return tx.scalar(LOCK_REMOVED_CHAT, {"id": id_}) is not None


def lock_some_chats(tx: Connection, application_id: int, limit: int) -> dict[int, int]:
    """Lock some chats of a removed application that nobody has locked; returns their numbers by id."""
    rows = tx.execute(LOCK_SOME_CHATS, {"id": application_id, "limit": limit})
    return {row.id: row.number for row in rows}


def delete_messages(tx: Connection, chats: Sequence[int], limit: int) -> list[DeletedMessage]:
    """Delete at most so many messages of chats that are locked and removed."""
    return _DELETED.all(tx.execute(DELETE_MESSAGES, {"chats": list(chats), "limit": limit}))


def delete_chats(tx: Connection, ids: Sequence[int]) -> None:
    """Delete the rows of chats that are locked and empty, of a removed application."""
    message_blocks.delete_blocks(tx, ids)
    tx.execute(DELETE_CHATS, {"ids": list(ids)})


def finish_cascade(tx: Connection, pending: PendingCascade) -> bool:
    """Record that nothing is left of a parent; False, changing nothing, if an application has chats."""
    if pending.chat is not None:
        message_blocks.delete_blocks(tx, [pending.id])
    statement = FINISH_APPLICATION if pending.chat is None else FINISH_CHAT
    return tx.execute(statement, {"of_id": pending.id}).rowcount > 0


def count_remaining_messages(connection: Connection, pending: PendingCascade) -> int:
    """How many messages are left of a removed parent; reads each of their index entries."""
    statement = COUNT_APPLICATION_MESSAGES if pending.chat is None else COUNT_CHAT_MESSAGES
    return int(connection.scalar(statement, {"id": pending.id}) or 0)
