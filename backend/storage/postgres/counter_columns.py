"""The counter columns: how far they follow the counters in Redis, and how they are raised to them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import TextClause, bindparam, func, select, text

from backend.domain.model import Parent
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import STORED, RowMapper, hot
from backend.storage.postgres.tables import application, chat


class ParentCounters(NamedTuple):
    """A parent's row, as sync-counters reads it; `chat` is None for an application.

    `issued` is the column; `highest` the highest number among the children's rows.
    """

    token: str
    chat: int | None
    id: int
    alive: bool
    issued: int
    highest: int

    @property
    def parent(self) -> Parent:
        """The parent's name."""
        return Parent(self.token, self.chat)


class RaisedCount(NamedTuple):
    """A parent's count of children, before its counter column was raised and after."""

    id: int
    before: int
    after: int


class SyncState(NamedTuple):
    """How far a shard's columns follow Redis: completely in the epoch `synced_epoch`.

    `behind_seconds` is the time since then, or since the installation was created, if they never were.
    """

    number: int
    epoch: int
    synced_epoch: int
    behind_seconds: float


_COUNTERS = RowMapper(ParentCounters)
_RAISED = RowMapper(RaisedCount)
_SYNC_STATES = RowMapper(SyncState)
# text(), but for the last two: joins with arrays, subqueries over the children, and locks in an order.
_APPLICATION = """
    SELECT a.token, NULL::bigint AS chat, a.id, a.removed_at IS NULL AS alive,
           a.chats_issued AS issued,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0) AS highest"""
_CHAT = """
    SELECT a.token, c.number AS chat, c.id, c.state = 'stored' AND a.removed_at IS NULL AS alive,
           c.messages_issued AS issued,
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0) AS highest"""
APPLICATION_COUNTERS = hot(
    "application_counters",
    text(f"{_APPLICATION} FROM application a WHERE a.token = ANY(cast(:tokens AS text[]))"),
)
CHAT_COUNTERS = hot(
    "chat_counters",
    text(
        f"""
        {_CHAT}
        FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
        JOIN application a ON a.token = wanted.token
        JOIN chat c ON c.application_id = a.id AND c.number = wanted.number"""
    ),
)
# The page comes first: only the children of its rows are read, and no parallel plan is chosen.
APPLICATION_COUNTERS_PAGE = hot(
    "application_counters_page",
    text(
        f"""
        {_APPLICATION}
        FROM (SELECT * FROM application WHERE id > :after AND removed_at IS NULL
              ORDER BY id LIMIT :limit) a
        ORDER BY a.id"""
    ),
)
CHAT_COUNTERS_PAGE = hot(
    "chat_counters_page",
    text(
        """
        SELECT c.token, c.number AS chat, c.id, true AS alive, c.messages_issued AS issued,
               coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0) AS highest
        FROM (SELECT a.token, c.number, c.id, c.messages_issued
              FROM chat c JOIN application a ON a.id = c.application_id
              WHERE c.id > :after AND c.state = 'stored' AND a.removed_at IS NULL
              ORDER BY c.id LIMIT :limit) c
        ORDER BY c.id"""
    ),
)
# Locked in the order of their ids: two syncs of the same rows wait for each other instead of deadlocking.
_RAISE = """
    WITH found AS (
        SELECT p.id, p.{children}_count AS before, w.issued
        FROM unnest(cast(:ids AS bigint[]), cast(:numbers AS bigint[])) AS w(id, issued)
        JOIN {table} p ON p.id = w.id
        WHERE p.{children}_issued < w.issued ORDER BY p.id FOR NO KEY UPDATE OF p)
    UPDATE {table} SET {children}_issued = found.issued FROM found WHERE {table}.id = found.id
    RETURNING {table}.id, found.before, {table}.{children}_count AS after"""
RAISE_APPLICATION_COUNTERS = hot(
    "raise_application_counters", text(_RAISE.format(table="application", children="chats"))
)
RAISE_CHAT_COUNTERS = hot(
    "raise_chat_counters", text(_RAISE.format(table="chat", children="messages"))
)
RECORD_SYNC = text(
    """
    UPDATE shard s SET synced_epoch = greatest(s.synced_epoch, w.epoch),
        synced_at = greatest(s.synced_at, cast(:at AS timestamptz))
    FROM unnest(cast(:shards AS smallint[]), cast(:epochs AS bigint[])) AS w(number, epoch)
    WHERE s.number = w.number"""
)
SYNC_STATES = text(
    """
    SELECT s.number, s.epoch, s.synced_epoch,
           extract(epoch FROM clock_timestamp() - coalesce(s.synced_at, i.created_at))::float8
               AS behind_seconds
    FROM shard s, installation i ORDER BY s.number"""
)
SUM_MESSAGE_COUNTS = (
    select(func.coalesce(func.sum(chat.c.messages_count), 0))
    .join_from(chat, application, application.c.id == chat.c.application_id)
    .where(application.c.token == bindparam("token"), chat.c.state == STORED)
)


def list_parent_counters(
    connection: Connection, parents: Sequence[Parent]
) -> dict[Parent, ParentCounters]:
    """The rows of those of these parents that have one."""
    applications = [token for token, chat in parents if chat is None]
    chats = [(token, chat) for token, chat in parents if chat is not None]
    found: list[ParentCounters] = []
    if applications:
        rows = connection.execute(APPLICATION_COUNTERS, {"tokens": applications})
        found += _COUNTERS.all(rows)
    if chats:
        values = {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
        found += _COUNTERS.all(connection.execute(CHAT_COUNTERS, values))
    return {row.parent: row for row in found}


def page_application_counters(
    connection: Connection, after: int, limit: int
) -> list[ParentCounters]:
    """A page of all applications; `after` is the previous one's id."""
    values = {"after": after, "limit": limit}
    return _COUNTERS.all(connection.execute(APPLICATION_COUNTERS_PAGE, values))


def page_chat_counters(connection: Connection, after: int, limit: int) -> list[ParentCounters]:
    """A page of all chats; `after` is the previous one's id."""
    values = {"after": after, "limit": limit}
    return _COUNTERS.all(connection.execute(CHAT_COUNTERS_PAGE, values))


def raise_application_counters(tx: Connection, issued: Mapping[int, int]) -> dict[int, RaisedCount]:
    """Raise applications' `chats_issued`, by id; returns those that rose."""
    return _raise(tx, RAISE_APPLICATION_COUNTERS, issued)


def raise_chat_counters(tx: Connection, issued: Mapping[int, int]) -> dict[int, RaisedCount]:
    """Raise chats' `messages_issued`, by id; returns those that rose."""
    return _raise(tx, RAISE_CHAT_COUNTERS, issued)


def _raise(
    tx: Connection, statement: TextClause, issued: Mapping[int, int]
) -> dict[int, RaisedCount]:
    values = {"ids": list(issued.keys()), "numbers": list(issued.values())}
    return {row.id: row for row in _RAISED.all(tx.execute(statement, values))}


def sum_message_counts(connection: Connection, token: str) -> int:
    """The sum of the message counts of an application's chats, as of the last sync."""
    return int(connection.scalar(SUM_MESSAGE_COUNTS, {"token": token}) or 0)


def list_sync_states(connection: Connection) -> dict[int, SyncState]:
    """How far each shard's columns follow Redis."""
    return {row.number: row for row in _SYNC_STATES.all(connection.execute(SYNC_STATES))}


def record_sync(tx: Connection, epochs: Mapping[int, int], at: datetime) -> None:
    """Record that SQL holds all that changed before a time, in these shards' epochs."""
    values = {"shards": list(epochs.keys()), "epochs": list(epochs.values()), "at": at}
    tx.execute(RECORD_SYNC, values)
