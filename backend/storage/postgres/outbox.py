"""The outbox: which messages changed, for the publisher and for searches.

Each transaction that changes messages names them here, with their versions. A publisher leases rows,
publishes what those messages are *now*, and marks the rows as published. So neither the order nor a
repetition does harm, and a publisher that died loses nothing: its lease expires.

A published row stays until the index has been refreshed: until then searches read its messages from SQL
(`search_tail`). Everything else in this module concerns unpublished rows only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    any_,
    cast,
    delete,
    extract,
    func,
    select,
    text,
    update,
)
from sqlalchemy.types import BigInteger, Double

from backend.storage.postgres.database import Connection
from backend.storage.postgres.literals import array_literal
from backend.storage.postgres.statements import RowMapper, bigints, hot
from backend.storage.postgres.tables import installation, outbox

MAX_MESSAGES_PER_ROW = 2_500  # of one transaction: so several publishers can share what it changed
MAX_ROWS_SCANNED = 2_500


class ChangedMessage(NamedTuple):
    """A message that leased rows name, as it is now.

    `folded` is None if the message is removed, or has no row any more.
    """

    chat_id: int
    number: int
    version: int
    folded: str | None


class Lease(NamedTuple):
    """Rows that are leased to the caller, and the indices to which it must write their messages."""

    ids: list[int]
    indices: list[str]


class Lag(NamedTuple):
    """What is stored and not published yet: how many messages, and the age of the oldest of them."""

    messages: int
    seconds: float | None


# text(): SKIP LOCKED inside a chain of common table expressions, whose order matters.
LEASE = hot(
    "lease",
    text(
        """
        WITH free AS (
            SELECT id, size FROM outbox
            WHERE published_at IS NULL AND (leased_until IS NULL OR leased_until < clock_timestamp())
            ORDER BY id LIMIT :rows FOR UPDATE SKIP LOCKED),
        chosen AS (
            SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM free) f
            WHERE f.before < :messages AND EXISTS (SELECT FROM search_index)),
        leased AS (
            UPDATE outbox SET leased_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id IN (SELECT id FROM chosen) RETURNING id)
        SELECT (SELECT array_agg(id) FROM leased) AS ids,
               CASE WHEN EXISTS (SELECT FROM leased) THEN
                   (SELECT array_agg(name ORDER BY name)
                    FROM (SELECT name FROM search_index FOR SHARE) s)
               END AS indices,
               CASE WHEN NOT EXISTS (SELECT FROM leased) AND EXISTS (SELECT FROM search_index) THEN
                   (SELECT id FROM outbox
                    WHERE published_at IS NULL
                        AND (leased_until IS NULL OR leased_until < clock_timestamp())
                    ORDER BY id LIMIT 1)
               END AS free_id"""
    ),
)
# Each message once, however often it is named. text(): LIMIT 1 keeps the planner from reading all messages,
# as it cannot estimate how many of them the arrays name.
CHANGED_MESSAGES = hot(
    "changed_messages",
    text(
        """
        SELECT w.chat_id, w.number, coalesce(m.version, w.version) AS version, m.folded
        FROM (
            SELECT DISTINCT ON (n.chat_id, n.number) n.chat_id, n.number, n.version
            FROM outbox o
            CROSS JOIN LATERAL unnest(o.chats, o.numbers, o.versions) AS n(chat_id, number, version)
            WHERE o.id = ANY(cast(:ids AS bigint[]))
            ORDER BY n.chat_id, n.number, n.version DESC) w
        LEFT JOIN LATERAL (
            SELECT version, CASE WHEN state = 'stored' THEN folded END AS folded FROM message
            WHERE chat_id = w.chat_id AND number = w.number LIMIT 1) m ON true"""
    ),
)
_CHANGED_MESSAGES = RowMapper(ChangedMessage)
# text(): array literals, which the server casts.
INSERT = text(
    "INSERT INTO outbox (chats, numbers, versions) VALUES"
    " (cast(:chats AS bigint[]), cast(:numbers AS bigint[]), cast(:versions AS bigint[]))"
)
_in_ids = outbox.c.id == any_(bigints("ids"))
_is_unpublished = outbox.c.published_at.is_(None)
COMPLETE = hot(
    "complete",
    update(outbox).where(_in_ids).values(published_at=func.clock_timestamp(), leased_until=None),
)
# Of the oldest rows: publishing goes by age, so the published rows are among them.
# text(): the planner must not sort all rows of a long outbox.
PUBLISHED = hot(
    "published",
    text(
        """
        SELECT id, published_at < clock_timestamp() - make_interval(secs => :seconds) AS due
        FROM (SELECT id, published_at FROM outbox ORDER BY id LIMIT :rows) oldest
        WHERE published_at IS NOT NULL"""
    ),
)
DELETE_PUBLISHED = hot("delete_published", delete(outbox).where(_in_ids))
RELEASE = hot("release", update(outbox).where(_in_ids).values(leased_until=None))
ID_RANGE = hot(
    "id_range",
    select(
        select(func.min(outbox.c.id)).where(_is_unpublished).scalar_subquery().label("first"),
        select(func.max(outbox.c.id)).where(_is_unpublished).scalar_subquery().label("last"),
    ),
)
ROW_IDS = select(outbox.c.id).where(_is_unpublished).order_by(outbox.c.id)
IS_PUBLISHING = select(installation.c.publishing)
LAG = select(
    cast(func.coalesce(func.sum(outbox.c.size), 0), BigInteger).label("messages"),
    cast(extract("epoch", func.clock_timestamp() - func.min(outbox.c.created_at)), Double).label(
        "seconds"
    ),
).where(_is_unpublished)


def add_to_outbox(tx: Connection, changes: Sequence[tuple[int, int, int]]) -> None:
    """Name changed messages, as (chat id, number, version), for the publisher."""
    for start in range(0, len(changes), MAX_MESSAGES_PER_ROW):
        chats, numbers, versions = zip(*changes[start : start + MAX_MESSAGES_PER_ROW], strict=True)
        values = {
            "chats": array_literal(chats),
            "numbers": array_literal(numbers),
            "versions": array_literal(versions),
        }
        tx.execute(INSERT, values)


def is_publishing(tx: Connection) -> bool:
    """Whether changes must be named in the outbox; the flag is the database's, not a process's."""
    return bool(tx.scalar(IS_PUBLISHING))


def add_if_publishing(tx: Connection, changes: Sequence[tuple[int, int, int]]) -> bool:
    """Name changed messages for the publisher if changes are published; returns whether they are."""
    publishing = is_publishing(tx)
    if publishing:
        add_to_outbox(tx, changes)
    return publishing


def lease(tx: Connection, messages: int, seconds: float) -> Lease | None:
    """Lease the oldest free rows, of about so many messages; None if there are none, or no index.

    The lease has no rows if another publisher is choosing among the free rows at this moment. The same
    statement reads the indices: a transaction that registers an index need not wait for any publisher, as
    rows leased before were also committed before. It locks the indices' rows for a moment: a transaction
    that swaps the alias locks them too, and so keeps all publishers from leasing.
    """
    values = {"rows": MAX_ROWS_SCANNED, "messages": messages, "seconds": seconds}
    row = tx.execute(LEASE, values).one()
    if row.ids:
        return Lease(row.ids, row.indices)
    return Lease([], []) if row.free_id else None


def list_changed_messages(connection: Connection, ids: Sequence[int]) -> Sequence[Any]:
    """The messages that leased rows name, each once, as tuples of the fields of `ChangedMessage`."""
    result = connection.execute(CHANGED_MESSAGES, {"ids": list(ids)})
    return _CHANGED_MESSAGES.tuples(result)


def complete(tx: Connection, ids: Sequence[int]) -> None:
    """Mark rows whose messages are published: written to every index, and perhaps not searchable yet."""
    tx.execute(COMPLETE, {"ids": list(ids)})


def list_published(connection: Connection, rows: int, seconds: float) -> list[int]:
    """The published ones of the oldest rows; none unless one of them was published so long ago."""
    found = connection.execute(PUBLISHED, {"rows": rows, "seconds": seconds}).all()
    return [row.id for row in found] if any(row.due for row in found) else []


def delete_published(tx: Connection, ids: Sequence[int]) -> None:
    """Delete published rows, once a refresh of the index that began after they were listed has ended."""
    tx.execute(DELETE_PUBLISHED, {"ids": list(ids)})


def release(tx: Connection, ids: Sequence[int]) -> None:
    """End the lease of rows that could not be published."""
    tx.execute(RELEASE, {"ids": list(ids)})


def id_range(connection: Connection) -> tuple[int, int] | None:
    """The oldest and the newest unpublished row's id; None if there is none."""
    row = connection.execute(ID_RANGE).one()
    return None if row.first is None else (row.first, row.last)


def list_row_ids(connection: Connection) -> list[int]:
    """All unpublished rows' ids, the oldest first."""
    return list(connection.scalars(ROW_IDS))


def lag(connection: Connection) -> Lag:
    """How far publishing is behind."""
    row = connection.execute(LAG).one()
    return Lag(row.messages, None if row.seconds is None else max(row.seconds, 0.0))
