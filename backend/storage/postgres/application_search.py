"""Searching all chats of an application: which messages are in which span of time, and which have a keyword.

No index orders an application's messages by time: it would slow the storing of each message
(docs/adr/0010). A search reads the application's spans, which are the recorded blocks of its chats
(`message_blocks`) and the messages behind them, and then the spans that a window of time touches.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from backend.domain.model import MAX_NUMBER, Message, MessageKey, MessagePosition
from backend.storage.postgres.database import Connection
from backend.storage.postgres.literals import array_literal
from backend.storage.postgres.message_blocks import BLOCK_SIZE
from backend.storage.postgres.search_tail import MAX_NAMED_CHANGES, MAX_TAIL_CHANGES
from backend.storage.postgres.statements import RowMapper, field_names, hot


class Span(NamedTuple):
    """The numbers `first` to `last` of a chat: at most so many rows, created within these times."""

    chat_id: int
    first: int
    last: int
    rows: int
    earliest: datetime
    latest: datetime

    @property
    def is_recorded(self) -> bool:
        """Whether it is a recorded block, and not what is behind the blocks."""
        return self.last < MAX_NUMBER


class StoredChatId(NamedTuple):
    """A stored chat."""

    id: int
    number: int


class NumberSpan(NamedTuple):
    """The numbers `first` to `last` of a chat."""

    chat_id: int
    first: int
    last: int


class MessageOfChat(NamedTuple):
    """A message and its chat's number."""

    chat: int
    message: Message

    @property
    def position(self) -> MessagePosition:
        """Its place among the messages of its application."""
        return MessagePosition(self.message.created_at, self.chat, self.message.number)


_SPANS = RowMapper(Span)
_CHATS = RowMapper(StoredChatId)
_FIELDS = field_names(Message)
_COLUMNS = ", ".join(f"m.{name}" for name in _FIELDS)
# text(), all of these: arrays that are unnested, and a lateral query for each of their elements.
SPANS = hot(
    "spans_of_application",
    text(
        """
        WITH chats AS MATERIALIZED (SELECT * FROM unnest(cast(:chats AS bigint[])) AS c(id))
        SELECT c.id AS chat_id, b.block * :size AS first, (b.block + 1) * :size - 1 AS last,
               cast(:size AS bigint) AS rows, b.earliest, b.latest
        FROM chats c CROSS JOIN LATERAL (
            SELECT block, earliest, latest FROM message_block
            WHERE chat_id = c.id AND earliest <= cast(:until AS timestamptz) OFFSET 0) b
        UNION ALL
        SELECT c.id, m.first, cast(:max_number AS bigint), m.rows, m.earliest, m.latest
        FROM chats c CROSS JOIN LATERAL (
            SELECT min(number) AS first, count(*) AS rows, min(created_at) AS earliest,
                   max(created_at) AS latest
            FROM message
            WHERE chat_id = c.id AND state = 'stored'
              AND number >= (SELECT coalesce(max(block) + 1, 0) * :size FROM message_block
                             WHERE chat_id = c.id)) m
        WHERE m.rows > 0 AND m.earliest <= cast(:until AS timestamptz)"""
    ),
)
# OFFSET 0: each span is looked up by the primary key. The times are compared before the texts are read.
SEARCH_SPANS = hot(
    "search_spans",
    text(
        f"""
        SELECT c.number AS chat, {_COLUMNS}
        FROM unnest(cast(:chats AS bigint[]), cast(:firsts AS bigint[]), cast(:lasts AS bigint[]))
                 AS s(chat_id, first, last)
        CROSS JOIN LATERAL (
            SELECT number, application_id FROM chat
            WHERE id = s.chat_id AND state = 'stored' OFFSET 0) c
        CROSS JOIN LATERAL (
            SELECT * FROM message m
            WHERE m.chat_id = s.chat_id AND m.number BETWEEN s.first AND s.last
              AND m.created_at >= cast(:since AS timestamptz)
              AND m.created_at <= cast(:at AS timestamptz)
              AND (m.created_at, c.number, m.number)
                  < (cast(:at AS timestamptz), cast(:before_chat AS bigint),
                     cast(:before_number AS bigint))
              AND m.state = 'stored' AND strpos(m.folded COLLATE "C", :keyword) > 0 OFFSET 0) m
        WHERE EXISTS (SELECT FROM application a
                      WHERE a.token = :token AND a.id = c.application_id AND a.removed_at IS NULL)
        ORDER BY m.created_at DESC, c.number DESC, m.number DESC LIMIT :limit"""
    ),
)
STORED_CHATS = hot(
    "stored_chats_of_application",
    text(
        """
        SELECT c.id, c.number FROM application a JOIN chat c ON c.application_id = a.id
        WHERE a.token = :token AND a.removed_at IS NULL AND c.state = 'stored' AND c.number < :before
        ORDER BY c.number DESC LIMIT :limit"""
    ),
)
# One statement, so that it sees one moment: a message passes from the outbox to the dead letters, and back.
TAIL = hot(
    "tail_of_application",
    text(
        """
        WITH named AS MATERIALIZED (
            SELECT chats, numbers, size FROM outbox WHERE chats && cast(:chats AS bigint[])
            LIMIT :changes),
        total AS MATERIALIZED (
            SELECT count(*) < :changes AND coalesce(sum(size), 0) <= :all_changes AS readable FROM named)
        SELECT readable, chat_id, number
        FROM total LEFT JOIN LATERAL (
            (SELECT n.chat_id, n.number
             FROM named r, unnest(r.chats, r.numbers) AS n(chat_id, number)
             WHERE readable AND n.chat_id = ANY(cast(:chats AS bigint[])) LIMIT :changes)
            UNION ALL
            (SELECT c.id, d.number
             FROM dead_letter d JOIN application a ON a.token = d.token
             JOIN chat c ON c.application_id = a.id AND c.number = d.chat
             WHERE d.kind = 'publish' AND d.token = :token LIMIT :changes)) n ON readable"""
    ),
)


def list_spans(
    connection: Connection, chat_ids: Sequence[int], before: MessagePosition | None
) -> Sequence[Span]:
    """The spans that hold all stored messages of these chats before a position.

    Reads the creation time of each message that is in no recorded block: of at most about 1,024 a chat.
    """
    values = {
        "chats": array_literal(chat_ids),
        "until": before.created_at if before else "infinity",
        "size": BLOCK_SIZE,
        "max_number": MAX_NUMBER,
    }
    return _SPANS.all(connection.execute(SPANS, values))


def search_spans(
    connection: Connection,
    token: str,
    spans: Sequence[Span] | Sequence[NumberSpan],
    keyword: str,
    *,
    since: datetime | None = None,
    before: MessagePosition | None,
    limit: int,
) -> list[MessageOfChat]:
    """The newest `limit` stored messages in these spans, which must not overlap, that contain the keyword.

    The keyword is folded. They were created at `since` or later, and are before the position `before`.
    """
    values = {
        "token": token,
        "chats": array_literal(span.chat_id for span in spans),
        "firsts": array_literal(span.first for span in spans),
        "lasts": array_literal(span.last for span in spans),
        "since": since or "-infinity",
        "at": before.created_at if before else "infinity",
        "before_chat": before.chat if before else 0,
        "before_number": before.number if before else 0,
        "keyword": keyword,
        "limit": limit,
    }
    rows = connection.execute(SEARCH_SPANS, values).mappings()
    return [
        MessageOfChat(row["chat"], Message(**{name: row[name] for name in _FIELDS})) for row in rows
    ]


def list_chats(
    connection: Connection, token: str, limit: int, before: int = MAX_NUMBER + 1
) -> Sequence[StoredChatId]:
    """Up to `limit` stored chats of an application with numbers below `before`, descending."""
    values = {"token": token, "before": before, "limit": limit}
    return _CHATS.all(connection.execute(STORED_CHATS, values))


def read_tail(
    connection: Connection, token: str, chat_ids: Sequence[int]
) -> set[MessageKey] | None:
    """The tail of these chats, which are all that an application has; None if it is too long.

    See `search_tail` for what a tail is.
    """
    values = {
        "token": token,
        "chats": array_literal(chat_ids),
        "changes": MAX_TAIL_CHANGES + 1,
        "all_changes": MAX_NAMED_CHANGES,
    }
    rows = connection.execute(TAIL, values).all()
    if not rows[0].readable or len(rows) > MAX_TAIL_CHANGES:
        return None
    return {(row.chat_id, row.number) for row in rows if row.number is not None}
