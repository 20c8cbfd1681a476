"""What follows a number in a chat: the statements that serve those who follow chats."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import RowMapping, text

from backend.domain.model import Message, MessageKey
from backend.storage.postgres.database import Connection
from backend.storage.postgres.messages import FIELDS, to_message
from backend.storage.postgres.statements import RowMapper, hot


class FollowStart(NamedTuple):
    """A chat's id, and the highest number that has a row."""

    chat_id: int
    newest: int


class NumberState(NamedTuple):
    """A number's state (`stored`, `removed`, `dead`, `lost`), and its message if that can be read."""

    number: int
    state: str
    message: Message | None


class FollowedChat(NamedTuple):
    """A chat's state, `removed` also if its application is; and the rows after a number, in order."""

    state: str
    rows: list[NumberState]


_STARTS = RowMapper(FollowStart)
_columns = ", ".join(f"m.{name}" for name in FIELDS)
# text(), all of these: joins with arrays, and a page of each chat by a lateral join.
FOLLOW_START = hot(
    "follow_start",
    text(
        """
        SELECT c.id AS chat_id,
               coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0) AS newest
        FROM application a JOIN chat c ON c.application_id = a.id
        WHERE a.token = :token AND c.number = :chat"""
    ),
)
ROWS_AFTER = hot(
    "rows_after",
    text(
        f"""
        SELECT w.chat_id, CASE WHEN a.removed_at IS NULL THEN c.state ELSE 'removed' END AS chat_state,
               m.state, {_columns}
        FROM unnest(cast(:chats AS bigint[]), cast(:afters AS bigint[])) AS w(chat_id, after)
        JOIN chat c ON c.id = w.chat_id JOIN application a ON a.id = c.application_id
        LEFT JOIN LATERAL (
            SELECT m.state, {_columns} FROM message m
            WHERE m.chat_id = w.chat_id AND m.number > w.after
            ORDER BY m.number LIMIT :limit) m ON true
        ORDER BY w.chat_id, m.number"""
    ),
)
STATES_OF_NUMBERS = hot(
    "states_of_numbers",
    text(
        f"""
        SELECT m.chat_id, m.state, {_columns}
        FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS w(chat_id, number)
        JOIN message m ON m.chat_id = w.chat_id AND m.number = w.number"""
    ),
)


def follow_start(connection: Connection, token: str, chat_number: int) -> FollowStart | None:
    """Where to start following a chat; None if it has no row."""
    values = {"token": token, "chat": chat_number}
    return _STARTS.one_or_none(connection.execute(FOLLOW_START, values))


def rows_after(
    connection: Connection, afters: Mapping[int, int], limit: int
) -> dict[int, FollowedChat]:
    """The first rows after a number, in any state, of each of these chats (by id); one statement.

    A chat whose row is deleted, too, is missing.
    """
    values = {"chats": list(afters), "afters": list(afters.values()), "limit": limit}
    found: dict[int, FollowedChat] = {}
    for row in connection.execute(ROWS_AFTER, values).mappings():
        chat = found.get(row["chat_id"])
        if chat is None:
            chat = found[row["chat_id"]] = FollowedChat(row["chat_state"], [])
        if row["number"] is not None:
            chat.rows.append(_number_state(row))
    return found


def states_of_numbers(
    connection: Connection, keys: Sequence[MessageKey]
) -> dict[MessageKey, NumberState]:
    """The present state of each of these that has a row."""
    values = {"chats": [chat for chat, _ in keys], "numbers": [number for _, number in keys]}
    rows = connection.execute(STATES_OF_NUMBERS, values).mappings() if keys else ()
    return {(row["chat_id"], row["number"]): _number_state(row) for row in rows}


def _number_state(row: RowMapping) -> NumberState:
    if row["state"] != "stored":
        return NumberState(row["number"], row["state"], None)
    return NumberState(row["number"], "stored", to_message(row))
