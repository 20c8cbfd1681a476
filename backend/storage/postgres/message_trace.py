"""What SQL knows of one number of a chat, for operators who ask what became of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.dead_letters import DeadLetter
from backend.storage.postgres.statements import RowMapper

FOLDED_CHARACTERS = 32  # of the text: enough to search for it


class TracedNumber(NamedTuple):
    """What the tables of applications, chats and messages have, in one statement.

    `chat_state` is None if the chat has no row, `state` if the number has none; the row of a range of lost
    numbers is that of each of them. `committed_at` is when the present version was committed, where
    PostgreSQL tracks that. `folded` is the beginning of the folded text. `drained_at` is when
    the last drain of its shard began. `now` is by PostgreSQL's clock.
    """

    application_removed_at: datetime | None
    chat_id: int | None
    chat_state: str | None
    chat_created_at: datetime | None
    chat_removed_at: datetime | None
    state: str | None
    version: int | None
    created_at: datetime | None
    updated_at: datetime | None
    removed_at: datetime | None
    committed_at: datetime | None
    folded: str | None
    publishing: bool
    drained_at: datetime | None
    now: datetime

    @property
    def removed_parent(self) -> tuple[str, datetime | None] | None:
        """Which parent is removed, and since when; None if none is."""
        if self.application_removed_at is not None:
            return "application", self.application_removed_at
        return ("chat", self.chat_removed_at) if self.chat_state == "removed" else None


class OutboxEntry(NamedTuple):
    """A row of the outbox that names a message: since when, with which version, and when it was published."""

    created_at: datetime
    leased_until: datetime | None
    published_at: datetime | None
    version: int


class NumberedDeadLetter(NamedTuple):
    """A dead letter of a number, or of an entry of the log that may have created it."""

    key: str
    kind: str
    reason: str
    token: str | None
    chat: int | None
    number: int | None
    event: bytes
    created_at: datetime

    @property
    def letter(self) -> DeadLetter:
        """As it was stored."""
        return DeadLetter(self.key, self.reason, self.token, self.chat, self.number, self.event)


_NUMBER = RowMapper(TracedNumber)
_OUTBOX = RowMapper(OutboxEntry)
_DEAD_LETTERS = RowMapper(NumberedDeadLetter)
# text(), all of these: lateral joins, and PostgreSQL's own columns and functions. None is hot.
NUMBER = text(
    """
    SELECT a.removed_at AS application_removed_at, c.id AS chat_id, c.state AS chat_state,
           c.created_at AS chat_created_at, c.removed_at AS chat_removed_at,
           m.state, m.version, m.created_at, m.updated_at, m.removed_at, m.committed_at,
           left(m.folded, :characters) AS folded, i.publishing,
           (SELECT drained_at FROM shard WHERE number = :shard) AS drained_at, clock_timestamp() AS now
    FROM installation i CROSS JOIN application a
    LEFT JOIN LATERAL (SELECT * FROM chat WHERE application_id = a.id AND number >= :chat
                       ORDER BY number LIMIT 1) c ON coalesce(c.first_lost, c.number) <= :chat
    LEFT JOIN LATERAL (
        SELECT *, CASE WHEN current_setting('track_commit_timestamp') = 'on'
                  THEN pg_xact_commit_timestamp(xmin) END AS committed_at
        FROM message WHERE chat_id = c.id AND number >= :number
        ORDER BY number LIMIT 1) m ON coalesce(m.first_lost, m.number) <= :number
    WHERE a.token = :token"""
)
OUTBOX = text(
    """
    SELECT o.created_at, o.leased_until, o.published_at, max(n.version) AS version
    FROM outbox o, unnest(o.chats, o.numbers, o.versions) AS n(chat_id, number, version)
    WHERE o.chats @> ARRAY[cast(:chat_id AS bigint)] AND n.chat_id = :chat_id AND n.number = :number
    GROUP BY o.id ORDER BY o.id"""
)
# Of the application and the chat; a dead letter without a number is of a whole entry.
DEAD_LETTERS = text(
    """
    SELECT key, kind, reason, token, chat, number, event, created_at FROM dead_letter
    WHERE token = :token AND (
        chat = :chat AND coalesce(number, :number) = :number
        OR chat IS NULL AND coalesce(number, :chat) = :chat)
    ORDER BY id"""
)


def find_number(
    connection: Connection, shard: int, token: str, chat: int, number: int
) -> TracedNumber | None:
    """What the tables have of a number; None if there is no such application. `shard` is where that is."""
    values = {
        "shard": shard,
        "token": token,
        "chat": chat,
        "number": number,
        "characters": FOLDED_CHARACTERS,
    }
    return _NUMBER.one_or_none(connection.execute(NUMBER, values))


def list_outbox_entries(connection: Connection, chat_id: int, number: int) -> list[OutboxEntry]:
    """The rows of the outbox that name a message, the oldest first."""
    return _OUTBOX.all(connection.execute(OUTBOX, {"chat_id": chat_id, "number": number}))


def list_dead_letters_of(
    connection: Connection, token: str, chat: int, number: int
) -> Sequence[NumberedDeadLetter]:
    """The dead letters of a message, of its chat, and of entries that created messages of its chat."""
    values = {"token": token, "chat": chat, "number": number}
    return _DEAD_LETTERS.all(connection.execute(DEAD_LETTERS, values))
