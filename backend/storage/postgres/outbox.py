"""The outbox: which messages changed, for the publisher.

Each transaction that changes messages names them here, with their versions. A publisher leases rows,
publishes what those messages are *now*, and deletes the rows. So neither the order nor a repetition can
hurt, and a publisher that died has lost nothing: its lease expires.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from backend.storage.postgres.statements import driver_rows, hot

MAX_MESSAGES_PER_ROW = 2_500  # of one transaction: so several publishers can share what it changed
MAX_ROWS_SCANNED = 2_500

LEASE = hot(
    "lease",
    """
    WITH free AS (
        SELECT id, size FROM outbox WHERE leased_until IS NULL OR leased_until < clock_timestamp()
        ORDER BY id LIMIT :rows FOR UPDATE SKIP LOCKED),
    chosen AS (
        SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM free) f
        WHERE f.before < :messages AND EXISTS (SELECT FROM search_index)),
    leased AS (
        UPDATE outbox SET leased_until = clock_timestamp() + make_interval(secs => :seconds)
        WHERE id IN (SELECT id FROM chosen) RETURNING id)
    SELECT (SELECT array_agg(id) FROM leased),
           CASE WHEN EXISTS (SELECT FROM leased) THEN
               (SELECT array_agg(name ORDER BY name) FROM (SELECT name FROM search_index FOR SHARE) s)
           END,
           CASE WHEN NOT EXISTS (SELECT FROM leased) AND EXISTS (SELECT FROM search_index) THEN
               (SELECT id FROM outbox WHERE leased_until IS NULL OR leased_until < clock_timestamp()
                ORDER BY id LIMIT 1)
           END""",
)
# Each message once, however often it is named. LIMIT 1 keeps the planner from reading all messages, whose
# number it can't compare with the arrays'.
CHANGED_MESSAGES = hot(
    "changed_messages",
    """
    SELECT w.chat_id, w.number, coalesce(m.version, w.version), m.folded
    FROM (
        SELECT DISTINCT ON (n.chat_id, n.number) n.chat_id, n.number, n.version
        FROM outbox o
        CROSS JOIN LATERAL unnest(o.chats, o.numbers, o.versions) AS n(chat_id, number, version)
        WHERE o.id = ANY(cast(:ids AS bigint[]))
        ORDER BY n.chat_id, n.number, n.version DESC) w
    LEFT JOIN LATERAL (
        SELECT version, CASE WHEN state = 'stored' THEN folded END AS folded FROM message
        WHERE chat_id = w.chat_id AND number = w.number LIMIT 1) m ON true""",
)
COMPLETE = hot("complete", "DELETE FROM outbox WHERE id = ANY(cast(:ids AS bigint[]))")
RELEASE = hot(
    "release",
    "UPDATE outbox SET leased_until = NULL WHERE id = ANY(cast(:ids AS bigint[]))",
)
ID_RANGE = hot("id_range", "SELECT (SELECT min(id) FROM outbox), (SELECT max(id) FROM outbox)")


class Lease(NamedTuple):
    """Rows that are ours for a while, and the indices that their messages have to be written to."""

    ids: list[int]
    indices: list[str]


class Lag(NamedTuple):
    """What is stored and not published yet: how many messages, and for how long the oldest of them."""

    messages: int
    seconds: float | None


def add_to_outbox(tx: Connection, changes: Sequence[tuple[int, int, int]]) -> None:
    """Name changed messages, as (chat id, number, version), for the publisher."""
    for start in range(0, len(changes), MAX_MESSAGES_PER_ROW):
        chats, numbers, versions = zip(*changes[start : start + MAX_MESSAGES_PER_ROW], strict=True)
        tx.execute(
            text(
                "INSERT INTO outbox (chats, numbers, versions) VALUES (cast(:chats AS bigint[]),"
                " cast(:numbers AS bigint[]), cast(:versions AS bigint[]))"
            ),
            {
                "chats": _array_literal(chats),
                "numbers": _array_literal(numbers),
                "versions": _array_literal(versions),
            },
        )


def is_publishing(tx: Connection) -> bool:
    """Whether changes are to be named in the outbox; the flag is the database's, not a process's."""
    return bool(tx.scalar(text("SELECT publishing FROM installation")))


def lease(tx: Connection, messages: int, seconds: float) -> Lease | None:
    """Lease the oldest free rows, of about so many messages; None if there are none, or no index.

    No rows at all if another publisher is just choosing among those that are free. The indices are read in
    the same statement: whoever adds one need not wait for any publisher, as what was leased before was also
    committed before. Their rows are locked for a moment: who turns searches from one to another keeps all
    from leasing meanwhile.
    """
    ids, indices, free_row = tx.execute(
        LEASE, {"rows": MAX_ROWS_SCANNED, "messages": messages, "seconds": seconds}
    ).one()
    if ids:
        return Lease(ids, indices)
    return Lease([], []) if free_row else None


def list_changed_messages(connection: Connection, ids: Sequence[int]) -> Sequence[Any]:
    """The messages that leased rows name, each once, as they are: (chat id, number, version, folded text).

    The text is None for one that is removed, or has no row any more.
    """
    return driver_rows(connection.execute(CHANGED_MESSAGES, {"ids": list(ids)}))


def complete(tx: Connection, ids: Sequence[int]) -> None:
    """Delete rows whose messages are published."""
    tx.execute(COMPLETE, {"ids": list(ids)})


def release(tx: Connection, ids: Sequence[int]) -> None:
    """Let go of rows that could not be published."""
    tx.execute(RELEASE, {"ids": list(ids)})


def id_range(connection: Connection) -> tuple[int, int] | None:
    """The oldest and the newest row; None if there is none."""
    first, last = connection.execute(ID_RANGE).one()
    return None if first is None else (first, last)


def list_row_ids(connection: Connection) -> list[int]:
    """All rows, the oldest first."""
    return list(connection.scalars(text("SELECT id FROM outbox ORDER BY id")))


def lag(connection: Connection) -> Lag:
    """How far publishing is behind."""
    messages, seconds = connection.execute(
        text(
            "SELECT coalesce(sum(size), 0),"
            " extract(epoch FROM clock_timestamp() - min(created_at)) FROM outbox"
        )
    ).one()
    return Lag(int(messages), None if seconds is None else max(float(seconds), 0.0))


def _array_literal(values: Iterable[int]) -> str:
    """An array as PostgreSQL reads it: a tenth of the time that the driver takes to quote each value."""
    return "{" + ",".join(map(str, values)) + "}"
