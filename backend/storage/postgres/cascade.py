"""What belonged to removed applications and chats: finding what is left of it, and dropping it."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.domain.model import Parent
from backend.storage.postgres.statements import hot


class PendingCascade(NamedTuple):
    """A removed parent that rows may be left of, and its own row's id."""

    parent: Parent
    id: int


class DeletedMessage(NamedTuple):
    """A message whose row was dropped; `shown` if it was there for its readers until then."""

    chat_id: int
    number: int
    version: int
    shown: bool


PENDING_CASCADES = hot(
    "pending_cascades",
    """
    (SELECT a.token, NULL::bigint, a.id FROM application a WHERE a.rows_left ORDER BY a.id LIMIT :limit)
    UNION ALL
    (SELECT a.token, c.number, c.id FROM chat c JOIN application a ON a.id = c.application_id
     WHERE c.rows_left ORDER BY c.id LIMIT :limit)
    LIMIT :limit""",
)
PENDING_APPLICATION_CASCADE = hot(
    "pending_application_cascade",
    "SELECT token, NULL::bigint, id FROM application WHERE token = :token AND rows_left",
)
PENDING_CHAT_CASCADE = hot(
    "pending_chat_cascade",
    """
    SELECT a.token, c.number, c.id FROM application a JOIN chat c ON c.application_id = a.id
    WHERE a.token = :token AND c.number = :chat AND c.rows_left""",
)


def list_pending_cascades(connection: Connection, limit: int) -> list[PendingCascade]:
    """Some removed parents that rows may be left of."""
    rows = connection.execute(PENDING_CASCADES, {"limit": limit})
    return [PendingCascade(Parent(token, chat), id_) for token, chat, id_ in rows]


def find_pending_cascade(connection: Connection, parent: Parent) -> PendingCascade | None:
    """A removed parent, while rows may be left of it."""
    token, chat = parent
    if chat is None:
        row = connection.execute(PENDING_APPLICATION_CASCADE, {"token": token}).one_or_none()
    else:
        row = connection.execute(PENDING_CHAT_CASCADE, {"token": token, "chat": chat}).one_or_none()
    return None if row is None else PendingCascade(parent, row[2])


LOCK_REMOVED_CHAT = hot(
    "lock_removed_chat",
    "SELECT id FROM chat WHERE id = :id AND rows_left FOR UPDATE SKIP LOCKED",
)
LOCK_SOME_CHATS = hot(
    "lock_some_chats",
    """
    SELECT id, number FROM chat WHERE application_id = :id ORDER BY number LIMIT :limit
    FOR UPDATE SKIP LOCKED""",
)
DELETE_MESSAGES = hot(
    "delete_messages",
    """
    WITH chosen AS (
        SELECT m.chat_id, m.number
        FROM unnest(cast(:chats AS bigint[])) AS c(id)
        CROSS JOIN LATERAL (
            SELECT chat_id, number FROM message WHERE chat_id = c.id ORDER BY number LIMIT :limit) m
        LIMIT :limit)
    DELETE FROM message m USING chosen d WHERE m.chat_id = d.chat_id AND m.number = d.number
    RETURNING m.chat_id, m.number, m.version, m.state = 'stored'""",
)


def lock_removed_chat(tx: Connection, id_: int) -> bool:
    """Lock a removed chat's row; False if another has it, or nothing is left of it."""
    return tx.scalar(LOCK_REMOVED_CHAT, {"id": id_}) is not None


def lock_some_chats(tx: Connection, application_id: int, limit: int) -> dict[int, int]:
    """Lock some chats of a removed application that no other has locked; their numbers by id."""
    rows = tx.execute(LOCK_SOME_CHATS, {"id": application_id, "limit": limit})
    return {row.id: row.number for row in rows}


def delete_messages(tx: Connection, chats: Sequence[int], limit: int) -> list[DeletedMessage]:
    """Drop at most so many messages of chats that are locked and removed."""
    rows = tx.execute(DELETE_MESSAGES, {"chats": list(chats), "limit": limit})
    return [DeletedMessage(*row) for row in rows]


def delete_chats(tx: Connection, ids: Sequence[int]) -> None:
    """Drop the rows of chats that are locked and empty, of a removed application."""
    tx.execute(text("DELETE FROM chat WHERE id = ANY(cast(:ids AS bigint[]))"), {"ids": list(ids)})


def finish_cascade(tx: Connection, pending: PendingCascade) -> bool:
    """Note that nothing is left of a parent; False, changing nothing, if an application has chats."""
    if pending.parent.chat is not None:
        tx.execute(text("UPDATE chat SET rows_left = false WHERE id = :id"), {"id": pending.id})
        return True
    updated = tx.execute(
        text(
            "UPDATE application SET rows_left = false WHERE id = :id"
            " AND NOT EXISTS (SELECT FROM chat WHERE application_id = :id)"
        ),
        {"id": pending.id},
    )
    return updated.rowcount > 0


COUNT_CHAT_MESSAGES = hot(
    "count_chat_messages",
    "SELECT count(*) FROM message WHERE chat_id = :id",
)
COUNT_APPLICATION_MESSAGES = hot(
    "count_application_messages",
    """
    SELECT coalesce(sum((SELECT count(*) FROM message m WHERE m.chat_id = c.id)), 0)
    FROM chat c WHERE c.application_id = :id""",
)


def count_remaining_messages(connection: Connection, pending: PendingCascade) -> int:
    """How many messages are left of a removed parent; reads each of their index entries."""
    of_application = pending.parent.chat is None
    statement = COUNT_APPLICATION_MESSAGES if of_application else COUNT_CHAT_MESSAGES
    return int(connection.scalar(statement, {"id": pending.id}) or 0)
