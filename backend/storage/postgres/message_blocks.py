"""Blocks of messages: the earliest and the latest creation time of each full block of a chat's numbers.

They serve lists between two times. Such a list is ordered by number, and skips each block whose times are all
outside. Creation times rise with the numbers of what was accepted, so it then reads the block in which the
range begins, and those behind it. An import may have stored any times; the list is exact nevertheless.

An index on the creation times would slow the storing of each message, and would not give the order of the
numbers: docs/adr/0010.

For each chat holds: a message whose block is not above the highest recorded block of its chat is within the
times of its own block, which is recorded. Messages of higher blocks are read one by one: about a block.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import any_, delete, text

from backend.domain.events import MessagesCreated, from_micros
from backend.domain.model import MAX_NUMBER, Message, MessageRange
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper, bigints, field_names, hot
from backend.storage.postgres.tables import message_block

BLOCK_SIZE = 1024  # numbers; block B has the numbers from B * BLOCK_SIZE


class StoredSpan(NamedTuple):
    """Messages of a chat that were stored: the range of their numbers, and that of their creation times."""

    chat_id: int
    first: int
    last: int
    earliest: datetime
    latest: datetime


_MESSAGES = RowMapper(Message)
_COLUMNS = ", ".join(field_names(Message))
# text(), all of these: a join with arrays, and sorted pages that are joined by blocks.
RECORD = hot(
    "record_blocks",
    text(
        """
        WITH stored AS (
            SELECT * FROM unnest(cast(:chats AS bigint[]), cast(:blocks AS bigint[]),
                                 cast(:earliest AS timestamptz[]), cast(:latest AS timestamptz[]),
                                 cast(:beyond AS bigint[]))
                AS s(chat_id, block, earliest, latest, beyond)),
        chats AS (
            SELECT s.chat_id, max(s.block) AS last, min(s.beyond) AS beyond,
                   coalesce((SELECT max(b.block) FROM message_block b WHERE b.chat_id = s.chat_id), -1)
                       AS recorded
            FROM stored s GROUP BY s.chat_id)
        INSERT INTO message_block (chat_id, block, earliest, latest)
        SELECT chat_id, block, min(earliest), max(latest) FROM (
            SELECT s.chat_id, s.block, s.earliest, s.latest
            FROM stored s JOIN chats c ON c.chat_id = s.chat_id
            WHERE s.block <= c.recorded OR s.block < c.last
            UNION ALL
            SELECT c.chat_id, m.block, m.earliest, m.latest
            FROM chats c CROSS JOIN LATERAL (
                SELECT number / :size AS block, min(created_at) AS earliest, max(created_at) AS latest
                FROM message WHERE chat_id = c.chat_id
                  AND number >= (c.recorded + 1) * :size AND number < least(c.last * :size, c.beyond)
                GROUP BY 1) m) found
        GROUP BY chat_id, block
        ON CONFLICT (chat_id, block) DO UPDATE
        SET earliest = least(message_block.earliest, excluded.earliest),
            latest = greatest(message_block.latest, excluded.latest)"""
    ),
)
DELETE = delete(message_block).where(message_block.c.chat_id == any_(bigints("ids")))


def _between_times(direction: str, columns: str = _COLUMNS) -> str:
    """A page in one direction: of the recorded blocks, and of the messages behind them."""
    shown = """state = 'stored'
              AND created_at >= cast(:since AS timestamptz) AND created_at < cast(:until AS timestamptz)"""
    return f"""
        SELECT * FROM (
            (SELECT m.* FROM (
                 SELECT block FROM message_block
                 WHERE chat_id = :chat_id
                   AND block BETWEEN (:after + 1) / :size AND (:before - 1) / :size
                   AND latest >= cast(:since AS timestamptz)
                   AND earliest < cast(:until AS timestamptz)
                 ORDER BY block {direction}) b
             CROSS JOIN LATERAL (
                 SELECT {columns} FROM message
                 WHERE chat_id = :chat_id AND number >= greatest(b.block * :size, :after + 1)
                   AND number < least((b.block + 1) * :size, :before) AND {shown}
                 ORDER BY number {direction} LIMIT :limit) m
             ORDER BY b.block {direction}, m.number {direction} LIMIT :limit)
            UNION ALL
            (SELECT {columns} FROM message
             WHERE chat_id = :chat_id AND number > :after AND number < :before
               AND number >= (SELECT coalesce(max(block) + 1, 0) * :size FROM message_block
                              WHERE chat_id = :chat_id) AND {shown}
             ORDER BY number {direction} LIMIT :limit)) m
        ORDER BY number {direction} LIMIT :limit"""


MESSAGES = hot("messages_between_times", text(_between_times("ASC")))
NEWEST_MESSAGES = hot("newest_messages_between_times", text(_between_times("DESC")))
NUMBERS = hot("numbers_between_times", text(_between_times("ASC", "number")))


def fills_block(first: int, last: int) -> bool:
    """Whether a block is full once a chat's numbers `first` to `last` are stored, after all below them."""
    return (first - 1) // BLOCK_SIZE != last // BLOCK_SIZE


def block_spans(chat_id: int, events: Sequence[MessagesCreated]) -> Iterator[StoredSpan]:
    """The numbers of a chat that these events create, in the order of the log: a span for each block.

    A drain has thousands of events of one message, so it does not make a span of each. The numbers may have
    gaps of any size.
    """
    firsts = [event.first for event in events]
    micros = [event.micros for event in events]
    block, begin = firsts[0] // BLOCK_SIZE, 0
    while True:
        beyond = (block + 1) * BLOCK_SIZE
        end = bisect_left(firsts, beyond)
        times, last = micros[begin:end], events[end - 1].last
        yield StoredSpan(
            chat_id,
            max(firsts[begin], block * BLOCK_SIZE),
            min(last, beyond - 1),
            from_micros(min(times)),
            from_micros(max(times)),
        )
        if last >= beyond:
            block, begin = block + 1, end - 1
        elif end < len(events):
            block, begin = firsts[end] // BLOCK_SIZE, end
        else:
            return


def record_blocks(tx: Connection, spans: Iterable[StoredSpan], *, in_order: bool) -> None:
    """Record the blocks that these messages filled, or in which they were stored later.

    Call it in the transaction that stores them, under the shard's lock. If they are `in_order` (every other
    number of their chats is lower), it need not be called for chats whose numbers fill no block, and it reads
    less than a block of each chat.
    """
    earliest: dict[tuple[int, int], datetime] = {}
    latest: dict[tuple[int, int], datetime] = {}
    beyond: dict[int, int] = {}
    for chat_id, first, last, since, until in spans:
        beyond[chat_id] = min(first if in_order else MAX_NUMBER, beyond.get(chat_id, MAX_NUMBER))
        for block in range(first // BLOCK_SIZE, last // BLOCK_SIZE + 1):
            key = chat_id, block
            earliest[key] = min(since, earliest.get(key, since))
            latest[key] = max(until, latest.get(key, until))
    if not earliest:
        return
    values = {
        "chats": [chat_id for chat_id, _ in earliest],
        "blocks": [block for _, block in earliest],
        "earliest": list(earliest.values()),
        "latest": list(latest.values()),
        "beyond": [beyond[chat_id] for chat_id, _ in earliest],
        "size": BLOCK_SIZE,
    }
    tx.execute(RECORD, values)


def delete_blocks(tx: Connection, chat_ids: Iterable[int]) -> None:
    """Delete what is recorded of chats that have no messages any more."""
    tx.execute(DELETE, {"ids": list(chat_ids)})


def list_between_times(
    connection: Connection,
    chat_id: int,
    within: MessageRange,
    limit: int,
    *,
    newest_first: bool = False,
) -> list[Message]:
    """As `messages.list_messages`, for a range that has `since` or `until`."""
    statement = NEWEST_MESSAGES if newest_first else MESSAGES
    return _MESSAGES.all(connection.execute(statement, _values(chat_id, within, limit)))


def list_numbers_between_times(
    connection: Connection, chat_id: int, within: MessageRange, limit: int
) -> list[int]:
    """The numbers of `list_between_times`, ascending."""
    return list(connection.scalars(NUMBERS, _values(chat_id, within, limit)))


def _values(chat_id: int, within: MessageRange, limit: int) -> dict[str, object]:
    return {
        "chat_id": chat_id,
        "after": within.after,
        "before": within.before,
        "since": within.since or "-infinity",
        "until": within.until or "infinity",
        "limit": limit,
        "size": BLOCK_SIZE,
    }
