"""The counts in SQL: how far they follow the counters in Redis, and how they are brought up to them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.domain.model import Parent
from backend.storage.postgres.statements import hot


class ParentCounters(NamedTuple):
    """A parent's row, as sync-counters looks at it.

    `issued` is what SQL knows; `highest` the highest number among the children's rows.
    """

    parent: Parent
    id: int
    alive: bool
    issued: int
    highest: int


class SyncState(NamedTuple):
    """How far a shard's counts follow Redis: completely in the life `synced_epoch`, at `synced_at`.

    `behind_seconds` is how long ago that was, or the installation was made, if it never was so.
    """

    epoch: int
    synced_epoch: int
    behind_seconds: float


_APPLICATION = """
    SELECT a.token, NULL::bigint, a.id, a.removed_at IS NULL, a.chats_issued,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0)"""
_CHAT = """
    SELECT a.token, c.number, c.id, c.state = 'stored' AND a.removed_at IS NULL, c.messages_issued,
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)"""
APPLICATION_COUNTERS = hot(
    "application_counters",
    _APPLICATION + " FROM application a WHERE a.token = ANY(cast(:tokens AS text[]))",
)
CHAT_COUNTERS = hot(
    "chat_counters",
    _CHAT
    + """
    FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
    JOIN application a ON a.token = wanted.token
    JOIN chat c ON c.application_id = a.id AND c.number = wanted.number""",
)
# The page comes first: the children of its rows alone are looked at, and no parallel plan is worth while.
APPLICATION_COUNTERS_PAGE = hot(
    "application_counters_page",
    _APPLICATION
    + """
    FROM (SELECT * FROM application WHERE id > :after AND removed_at IS NULL
          ORDER BY id LIMIT :limit) a
    ORDER BY a.id""",
)
CHAT_COUNTERS_PAGE = hot(
    "chat_counters_page",
    """
    SELECT c.token, c.number, c.id, true, c.messages_issued,
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)
    FROM (SELECT a.token, c.number, c.id, c.messages_issued
          FROM chat c JOIN application a ON a.id = c.application_id
          WHERE c.id > :after AND c.state = 'stored' AND a.removed_at IS NULL
          ORDER BY c.id LIMIT :limit) c
    ORDER BY c.id""",
)


def list_parent_counters(
    connection: Connection, parents: Sequence[Parent]
) -> dict[Parent, ParentCounters]:
    """Those of these parents that have a row."""
    applications = [token for token, chat in parents if chat is None]
    chats = [(token, chat) for token, chat in parents if chat is not None]
    found = []
    if applications:
        found += _fetch_counters(connection, APPLICATION_COUNTERS, tokens=applications)
    if chats:
        tokens, numbers = [token for token, _ in chats], [number for _, number in chats]
        found += _fetch_counters(connection, CHAT_COUNTERS, tokens=tokens, numbers=numbers)
    return {row.parent: row for row in found}


def page_application_counters(
    connection: Connection, after: int, limit: int
) -> list[ParentCounters]:
    """A page of all applications; `after` is the last one's id."""
    return _fetch_counters(connection, APPLICATION_COUNTERS_PAGE, after=after, limit=limit)


def page_chat_counters(connection: Connection, after: int, limit: int) -> list[ParentCounters]:
    """A page of all chats; `after` is the last one's id."""
    return _fetch_counters(connection, CHAT_COUNTERS_PAGE, after=after, limit=limit)


def _fetch_counters(
    connection: Connection, statement: object, **values: object
) -> list[ParentCounters]:
    rows = connection.execute(statement, values)  # type: ignore[call-overload]
    return [ParentCounters(Parent(token, chat), *rest) for token, chat, *rest in rows]


# Locked in the order of their ids: two syncs of the same rows wait for each other, and none is ended.
_RAISE = """
    WITH found AS (
        SELECT p.id, p.{children}_count AS before, w.issued
        FROM unnest(cast(:ids AS bigint[]), cast(:numbers AS bigint[])) AS w(id, issued)
        JOIN {table} p ON p.id = w.id
        WHERE p.{children}_issued < w.issued ORDER BY p.id FOR NO KEY UPDATE OF p)
    UPDATE {table} SET {children}_issued = found.issued FROM found WHERE {table}.id = found.id
    RETURNING {table}.id, found.before, {table}.{children}_count"""
RAISE_APPLICATION_COUNTERS = hot(
    "raise_application_counters", _RAISE.format(table="application", children="chats")
)
RAISE_CHAT_COUNTERS = hot("raise_chat_counters", _RAISE.format(table="chat", children="messages"))


def raise_application_counters(
    tx: Connection, issued: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """Raise applications' `chats_issued`, by id; gives the count before and after of those that rose."""
    return _raise(tx, RAISE_APPLICATION_COUNTERS, issued)


def raise_chat_counters(tx: Connection, issued: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """Raise chats' `messages_issued`, by id; gives the count before and after of those that rose."""
    return _raise(tx, RAISE_CHAT_COUNTERS, issued)


def _raise(
    tx: Connection, statement: object, issued: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    values = {"ids": list(issued.keys()), "numbers": list(issued.values())}
    rows = tx.execute(statement, values)  # type: ignore[call-overload]
    return {id_: (before, after) for id_, before, after in rows}


def sum_message_counts(connection: Connection, token: str) -> int:
    """What the count columns of an application's chats add up to, as of the last sync."""
    found = connection.scalar(
        text(
            "SELECT coalesce(sum(c.messages_count), 0) FROM chat c"
            " JOIN application a ON a.id = c.application_id"
            " WHERE a.token = :token AND c.state = 'stored'"
        ),
        {"token": token},
    )
    return int(found or 0)


def list_sync_states(connection: Connection) -> dict[int, SyncState]:
    """How far each shard's counts follow Redis."""
    rows = connection.execute(
        text(
            "SELECT s.number, s.epoch, s.synced_epoch,"
            " extract(epoch FROM clock_timestamp() - coalesce(s.synced_at, i.created_at))::float8"
            " FROM shard s, installation i ORDER BY s.number"
        )
    )
    return {number: SyncState(*rest) for number, *rest in rows}


def record_sync(tx: Connection, epochs: Mapping[int, int], at: datetime) -> None:
    """Note that all that was changed before a time, in these shards' lives, is in SQL."""
    tx.execute(
        text(
            "UPDATE shard s SET synced_epoch = greatest(s.synced_epoch, w.epoch),"
            " synced_at = greatest(s.synced_at, cast(:at AS timestamptz))"
            " FROM unnest(cast(:shards AS smallint[]), cast(:epochs AS bigint[])) AS w(number, epoch)"
            " WHERE s.number = w.number"
        ),
        {"shards": list(epochs.keys()), "epochs": list(epochs.values()), "at": at},
    )
