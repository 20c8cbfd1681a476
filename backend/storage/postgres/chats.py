"""Chats: their rows, read, stored and removed."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.domain.model import Chat
from backend.storage.postgres.statements import hot


class ChatRow(NamedTuple):
    """Chats `first` to `last` of an application, about to be stored."""

    application_id: int
    first: int
    last: int
    at: datetime


class StoredChat(NamedTuple):
    """A chat's row: the count columns as of the last sync, `removed` always exact."""

    id: int
    number: int
    removed: int
    state: str
    created_at: datetime
    updated_at: datetime


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

CHAT_PARENTS = hot(
    "chat_parents",
    "SELECT c.id, a.token, c.number FROM chat c JOIN application a ON a.id = c.application_id"
    " WHERE c.id = ANY(cast(:ids AS bigint[]))",
)

HAS_MESSAGES = hot(
    "has_messages",
    "SELECT EXISTS (SELECT FROM message WHERE chat_id = :id AND state = 'stored')",
)


def get_chat(connection: Connection, token: str, number: int) -> StoredChat | None:
    """A chat's row, in whatever state it is."""
    row = connection.execute(CHAT, {"token": token, "chat": number}).one_or_none()
    return None if row is None else StoredChat(*row)


def list_chats(connection: Connection, token: str, after: int, limit: int) -> list[StoredChat]:
    """A page of an application's chats, by number."""
    rows = connection.execute(CHATS, {"token": token, "after": after, "limit": limit})
    return [StoredChat(*row) for row in rows]


def chat_ids(
    tx: Connection, chats: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, bool]]:
    """For each known (token, number) the chat's id, and whether it and its application are alive."""
    rows = tx.execute(
        CHAT_IDS, {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
    )
    return {(token, number): (id_, alive) for token, number, id_, alive in rows}


def list_chat_ids(connection: Connection, token: str) -> list[int]:
    """The ids of an application's chats, in order."""
    return list(
        connection.scalars(
            text(
                "SELECT c.id FROM chat c JOIN application a ON a.id = c.application_id"
                " WHERE a.token = :token ORDER BY c.id"
            ),
            {"token": token},
        )
    )


def chat_parents(connection: Connection, chat_ids: Iterable[int]) -> dict[int, tuple[str, int]]:
    """The token and the number of each of these chats."""
    rows = connection.execute(CHAT_PARENTS, {"ids": list(chat_ids)})
    return {id_: (token, number) for id_, token, number in rows}


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


def count_removed(tx: Connection, chat_id: int, count: int) -> None:
    """Count numbers of a chat that hold no message any more, in the transaction that ends them."""
    tx.execute(
        text("UPDATE chat SET messages_removed = messages_removed + :count WHERE id = :id"),
        {"id": chat_id, "count": count},
    )


def to_chat(row: StoredChat, messages_count: int) -> Chat:
    """The row as its users see it."""
    return Chat(row.number, messages_count, row.created_at, row.updated_at)
