"""Exports: the rows that an export reads, in the order of its lines."""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from sqlalchemy import TextClause, text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.messages import CONTENT, ExportedMessage
from backend.storage.postgres.statements import PAGE, RowMapper

T = TypeVar("T")


class ExportedApplication(NamedTuple):
    """An application; `name` is None for a tombstone. Times are RFC 3339 in UTC, to the microsecond.

    `retention` is in seconds, `limit` in chats and messages a second; None where it has none.
    """

    token: str
    name: str | None
    chats_count: int
    retention: int | None
    limit: int | None
    created_at: str
    updated_at: str


class ExportedChat(NamedTuple):
    """A chat; `messages_count` is None for a tombstone. Times are as an application's.

    `first` is the first of the numbers that the tombstone stands for, if it stands for several.
    """

    token: str
    id: int
    number: int
    first: int | None
    messages_count: int | None
    created_at: str
    updated_at: str


_RFC3339 = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_CURRENT_TOKEN = "coalesce(a.current_token, a.token)"
_TOKEN_FILTER = "(cast(:token AS text) IS NULL OR a.token = :token)"


def _times(table: str) -> str:
    return ", ".join(
        f"{_RFC3339.format(f'{table}.{name}')} AS {name}" for name in ("created_at", "updated_at")
    )


# In the order of the lines. Messages have no sort key of their own: a nested loop keeps the order of the
# chats, and sorting all messages would need a disk. The export checks the order.
# text(), all of these: the order depends on the form of the plan, and times are formatted by the server.
EXPORTED_APPLICATIONS = text(
    f"""
    SELECT {_CURRENT_TOKEN} AS token, CASE WHEN a.removed_at IS NULL THEN a.name END AS name,
           (SELECT count(*) FROM chat c
            WHERE c.application_id = a.id AND c.state = 'stored') AS chats_count,
           CASE WHEN a.removed_at IS NULL THEN r.seconds END AS retention,
           CASE WHEN a.removed_at IS NULL THEN l.per_second END AS "limit", {_times("a")}
    FROM application a LEFT JOIN retention r ON r.application_id = a.id
    LEFT JOIN rate_limit l ON l.application_id = a.id
    WHERE {_TOKEN_FILTER} ORDER BY a.token"""
)
EXPORTED_CHATS = text(
    f"""
    SELECT {_CURRENT_TOKEN} AS token, c.id, c.number, c.first_lost AS first, CASE WHEN c.state = 'stored' THEN
           (SELECT count(*) FROM message m WHERE m.chat_id = c.id AND m.state = 'stored')
           END AS messages_count, {_times("c")}
    FROM application a JOIN chat c ON c.application_id = a.id
    WHERE a.removed_at IS NULL AND {_TOKEN_FILTER} ORDER BY a.token, c.number"""
)
_content = "".join(
    f"CASE WHEN m.state = 'stored' THEN m.{name} END AS {name}, " for name in CONTENT
)
EXPORTED_MESSAGES = text(
    f"""
    SELECT m.chat_id, m.number, m.first_lost AS first, {_content} {_times("m")}
    FROM (SELECT c.id FROM application a JOIN chat c ON c.application_id = a.id
          WHERE a.removed_at IS NULL AND c.state = 'stored' AND {_TOKEN_FILTER}
          ORDER BY a.token, c.number) c
    CROSS JOIN LATERAL (SELECT * FROM message WHERE chat_id = c.id ORDER BY number) m"""
)


def stream_applications(connection: Connection, token: str | None) -> Iterator[ExportedApplication]:
    """All applications, or one, tombstones included, read a page at a time."""
    return _stream(connection, EXPORTED_APPLICATIONS, ExportedApplication, token)


def stream_chats(connection: Connection, token: str | None) -> Iterator[ExportedChat]:
    """The chats of all applications that are not removed, or of one."""
    return _stream(connection, EXPORTED_CHATS, ExportedChat, token)


def stream_messages(connection: Connection, token: str | None) -> Iterator[ExportedMessage]:
    """The messages of all chats that are not removed, or of one application's."""
    return _stream(connection, EXPORTED_MESSAGES, ExportedMessage, token)


def count_exported(connection: Connection, token: str | None) -> int:
    """How many rows the three functions above read together."""
    return sum(
        connection.scalar(
            text(f"SELECT count(*) FROM ({statement.text}) AS rows"), {"token": token}
        )
        or 0
        for statement in (EXPORTED_APPLICATIONS, EXPORTED_CHATS, EXPORTED_MESSAGES)
    )


def _stream(
    connection: Connection, statement: TextClause, row_type: type[T], token: str | None
) -> Iterator[T]:
    options = {"yield_per": PAGE}
    rows = connection.execute(statement, {"token": token}, execution_options=options)
    return RowMapper(row_type).stream_rows(rows)
