"""Gaps: numbers below a parent's highest that have neither a row nor a dead letter.

A gap may have any size: an import keeps the numbers of its lines, so one line can leave out billions. So gaps
are ranges, wherever they are found, reported or stored. A row that holds nothing stands for its own number,
and for those from its column `first_lost` on, if that is set. No other row has a number between these two:
a writer that stores one there takes it out of the range (`take_messages_from_ranges`).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from sqlalchemy import TextClause, text

from backend.domain.model import Parent
from backend.storage.postgres.database import Connection
from backend.storage.postgres.messages import CONTENT
from backend.storage.postgres.statements import CLOCK_MICROS, PAGE, RowMapper, hot

MAX_SINGLE_ROWS = 1_000  # of one gap; a longer one is stored as one row


class Gap(NamedTuple):
    """The numbers from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.last - self.first + 1

    @property
    def rows(self) -> int:
        """How many rows store it."""
        return self.size if self.size <= MAX_SINGLE_ROWS else 1


class _Children(NamedTuple):
    """The table of a parent's children, and the parent's own."""

    table: str
    key: str
    parent_id: str  # as an expression of :token and :chat
    parent_table: str
    removed_column: str
    copied: tuple[str, ...]
    """The columns that the rows of a range's parts have of the row that stood for all of it."""


_PARENT_ID = """(SELECT {0}.id FROM application a LEFT JOIN chat c ON c.application_id = a.id
          AND c.number = cast(:chat AS bigint) WHERE a.token = :token)"""
_COPIED = ("created_at", "updated_at", "removed_at", "state")
_CHATS = _Children(
    "chat", "application_id", _PARENT_ID.format("a"), "application", "chats_removed", _COPIED
)
_MESSAGES = _Children(
    "message",
    "chat_id",
    _PARENT_ID.format("c"),
    "chat",
    "messages_removed",
    ("version", *_COPIED, *CONTENT, "folded"),
)
_GAPS = RowMapper(Gap)


def _children_of(parent: Parent) -> _Children:
    return _CHATS if parent.chat is None else _MESSAGES


# -- finding ---------------------------------------------------------------------------------------


def iter_gaps(connection: Connection, parent: Parent, through: int) -> Iterator[Gap]:
    """The gaps among a parent's numbers up to `through`, in order, read a page at a time."""
    children = _children_of(parent)
    values = {**parent._asdict(), "through": through}
    options = {"yield_per": PAGE}
    # The rows' numbers come from the index alone, in order; only the row after a gap is looked up.
    above_rows = text(
        f"""
        SELECT first, coalesce(
            (SELECT first_lost FROM {children.table}
             WHERE {children.key} = {children.parent_id} AND number = gap.number), number) - 1 AS last
        FROM (SELECT lag(number, 1, 0::bigint) OVER (ORDER BY number) + 1 AS first, number
              FROM {children.table}
              WHERE {children.key} = {children.parent_id} AND number <= :through) gap
        WHERE first < number ORDER BY first"""
    )
    highest = text(
        f"""
        SELECT coalesce(max(number), 0) FROM {children.table}
        WHERE {children.key} = {children.parent_id} AND number <= :through"""
    )
    rejected = text(
        """
        SELECT number FROM dead_letter
        WHERE kind = 'drain' AND token = :token AND chat IS NOT DISTINCT FROM cast(:chat AS bigint)
          AND number BETWEEN 1 AND :through ORDER BY number"""
    )
    found = _GAPS.stream(connection.execute(above_rows, values, execution_options=options))
    behind = Gap(int(connection.scalar(highest, values) or 0) + 1, through)
    numbers = connection.execute(rejected, values, execution_options=options).scalars()
    yield from without(chain(found, [behind]), numbers)


def without(gaps: Iterable[Gap], numbers: Iterable[int]) -> Iterator[Gap]:
    """The parts of ranges that have none of these numbers. Both are in order; a range may be empty."""
    left = iter(numbers)
    number = next(left, None)
    for gap in gaps:
        first = gap.first
        while number is not None and number <= gap.last:
            if first < number:
                yield Gap(first, number - 1)
            first = max(first, number + 1)
            number = next(left, None)
        if first <= gap.last:
            yield Gap(first, gap.last)


# -- storing ---------------------------------------------------------------------------------------


def fill_gaps(tx: Connection, parent: Parent, through: int) -> list[Gap]:
    """Store as lost every number up to that one that has neither a row nor a dead letter.

    A gap of up to MAX_SINGLE_ROWS numbers gets a row for each, a longer one gets one whole. The caller holds
    the shard's lock and knows that none of these numbers is still to be stored. Returns the gaps.
    """
    gaps = list(iter_gaps(tx, parent, through))
    children = _children_of(parent)
    columns, values = "created_at, updated_at, state", "now(), now(), 'lost'"
    if parent.chat is not None:
        texts = (*CONTENT, "folded")
        columns += f", version, {', '.join(texts)}"
        values += f", {CLOCK_MICROS}" + ", ''" * len(texts)
    # text(): rows made of ranges, by the server.
    statement = text(
        f"""
        INSERT INTO {children.table} ({children.key}, number, first_lost, {columns})
        SELECT {children.parent_id}, n, CASE WHEN n - first >= :most THEN first END, {values}
        FROM unnest(cast(:firsts AS bigint[]), cast(:lasts AS bigint[])) AS gap(first, last)
        CROSS JOIN LATERAL generate_series(
            CASE WHEN last - first >= :most THEN last ELSE first END, last) AS n"""
    )
    tx.execute(
        statement,
        {
            **parent._asdict(),
            "firsts": [gap.first for gap in gaps],
            "lasts": [gap.last for gap in gaps],
            "most": MAX_SINGLE_ROWS,
        },
    )
    return gaps


def recount_removed(tx: Connection, parent: Parent) -> None:
    """Set a parent's column of removed children to the count of the numbers that hold nothing."""
    children = _children_of(parent)
    where = f"WHERE id = {children.parent_id}"
    # The lock comes first, so that the next statement sees all that other transactions have counted.
    tx.execute(text(f"SELECT FROM {children.parent_table} {where} FOR UPDATE"), parent._asdict())
    tx.execute(
        text(
            f"""
            UPDATE {children.parent_table} SET {children.removed_column} =
                (SELECT count(*) + coalesce(sum(number - first_lost), 0) FROM {children.table}
                 WHERE {children.key} = {children.parent_id} AND state <> 'stored')
            {where}"""
        ),
        parent._asdict(),
    )


# -- numbers in ranges -----------------------------------------------------------------------------

# text(), all of these: joins with arrays.
_HIGHEST = """
    SELECT w.parent_id, coalesce((SELECT max(number) FROM {0.table} WHERE {0.key} = w.parent_id), 0)
               AS highest
    FROM unnest(cast(:parents AS bigint[])) AS w(parent_id)"""
HIGHEST_CHATS = hot("highest_chats", text(_HIGHEST.format(_CHATS)))
HIGHEST_MESSAGES = hot("highest_messages", text(_HIGHEST.format(_MESSAGES)))
_RANGES = """
    SELECT DISTINCT w.parent_id, r.first_lost AS first, r.number AS last
    FROM unnest(cast(:parents AS bigint[]), cast(:numbers AS bigint[])) AS w(parent_id, number)
    CROSS JOIN LATERAL (SELECT number, first_lost FROM {0.table}
                        WHERE {0.key} = w.parent_id AND number >= w.number ORDER BY number LIMIT 1) r
    WHERE r.first_lost <= w.number"""
CHAT_RANGES = hot("chat_ranges", text(_RANGES.format(_CHATS)))
MESSAGE_RANGES = hot("message_ranges", text(_RANGES.format(_MESSAGES)))


def take_chats_from_ranges(
    tx: Connection, keys: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """As `take_messages_from_ranges`, for chats: an application's id and a number."""
    return _take_from_ranges(tx, _CHATS, HIGHEST_CHATS, CHAT_RANGES, list(keys))


def take_messages_from_ranges(
    tx: Connection, keys: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Take numbers, each with its chat's id, out of the ranges that have them: they get rows of their own.

    Call it before rows are stored whose numbers may be below a chat's highest. The caller holds the shard's
    lock. Returns those that were in a range.
    """
    return _take_from_ranges(tx, _MESSAGES, HIGHEST_MESSAGES, MESSAGE_RANGES, list(keys))


def _take_from_ranges(
    tx: Connection,
    children: _Children,
    highest_of: TextClause,
    ranges_of: TextClause,
    keys: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
    parents = {"parents": list({parent for parent, _ in keys})}
    highest = {row.parent_id: row.highest for row in tx.execute(highest_of, parents)}
    below = [(parent, number) for parent, number in keys if number <= highest[parent]]
    if not below:
        return []
    all_taken: list[tuple[int, int]] = []
    values = {"parents": [parent for parent, _ in below], "numbers": [n for _, n in below]}
    for parent, first, last in tx.execute(ranges_of, values).all():
        taken = sorted({n for of, n in below if of == parent and first <= n <= last})
        whole = Gap(first, last)
        _replace_range(tx, children, parent, whole, list(without([whole], taken)))
        all_taken += [(parent, number) for number in taken]
    return all_taken


def _replace_range(
    tx: Connection, children: _Children, parent_id: int, whole: Gap, left: Sequence[Gap]
) -> None:
    """Store the rest of a range in place of its row, and count the others as not removed any more."""
    columns = ", ".join(children.copied)
    values = {
        "parent": parent_id,
        "last": whole.last,
        "firsts": [part.first for part in left],
        "lasts": [part.last for part in left],
        "taken": whole.size - sum(part.size for part in left),
    }
    for statement in (
        f"""
        INSERT INTO {children.table} ({children.key}, number, first_lost, {columns})
        SELECT whole.{children.key}, part.last, nullif(part.first, part.last), {columns}
        FROM unnest(cast(:firsts AS bigint[]), cast(:lasts AS bigint[])) AS part(first, last)
        JOIN {children.table} whole ON whole.{children.key} = :parent AND whole.number = :last
        WHERE part.last < :last""",
        f"""
        UPDATE {children.table} whole SET first_lost = nullif(part.first, part.last)
        FROM unnest(cast(:firsts AS bigint[]), cast(:lasts AS bigint[])) AS part(first, last)
        WHERE whole.{children.key} = :parent AND whole.number = :last AND part.last = :last""",
        f"""
        DELETE FROM {children.table} WHERE {children.key} = :parent AND number = :last
          AND :last <> ALL (cast(:lasts AS bigint[]))""",
        f"""
        UPDATE {children.parent_table} SET {children.removed_column} = {children.removed_column} - :taken
        WHERE id = :parent""",
    ):
        tx.execute(text(statement), values)


def limit_chat_ranges(tx: Connection, keys: Sequence[tuple[int, int]]) -> None:
    """As `limit_message_ranges`, for chats: an application's id and a number."""
    _limit_ranges(tx, _CHATS, keys)


def limit_message_ranges(tx: Connection, keys: Sequence[tuple[int, int]]) -> None:
    """Have new rows stand for no number that another row has, and count the numbers that they stand for.

    A line of an import names the range of its row, and may name too much. Each key is a chat's id and a
    number.
    """
    _limit_ranges(tx, _MESSAGES, keys)


def _limit_ranges(tx: Connection, children: _Children, keys: Sequence[tuple[int, int]]) -> None:
    values = {"parents": [parent for parent, _ in keys], "numbers": [n for _, n in keys]}
    statement = text(
        f"""
        WITH limited AS (
            UPDATE {children.table} whole
            SET first_lost = nullif(greatest(whole.first_lost, 1 + coalesce(
                (SELECT max(below.number) FROM {children.table} below
                 WHERE below.{children.key} = w.parent_id AND below.number < w.number), 0)), whole.number)
            FROM unnest(cast(:parents AS bigint[]), cast(:numbers AS bigint[])) AS w(parent_id, number)
            WHERE whole.{children.key} = w.parent_id AND whole.number = w.number
            RETURNING w.parent_id, coalesce(whole.number - whole.first_lost, 0) AS others)
        UPDATE {children.parent_table} parent
        SET {children.removed_column} = {children.removed_column} + counted.others
        FROM (SELECT parent_id, sum(others) AS others FROM limited GROUP BY 1) counted
        WHERE parent.id = counted.parent_id"""
    )
    if keys:
        tx.execute(statement, values)
