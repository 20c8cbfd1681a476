"""Exports: the rows that an export reads, in the order of its lines."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, TextClause, text

from backend.storage.postgres.statements import PAGE

_RFC3339 = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

_TOKEN_FILTER = "(cast(:token AS text) IS NULL OR a.token = :token)"

# In the order of the lines. What has no place in a sort key keeps the order of what it is read from, as
# a nested loop does: a sort of all messages would take a disk. The export checks it.
EXPORTED_APPLICATIONS = text(
    f"""
    SELECT a.token, CASE WHEN a.removed_at IS NULL THEN a.name END,
           (SELECT count(*) FROM chat c WHERE c.application_id = a.id AND c.state = 'stored'),
           {_RFC3339.format("a.created_at")}, {_RFC3339.format("a.updated_at")}
    FROM application a WHERE {_TOKEN_FILTER} ORDER BY a.token"""
)

EXPORTED_CHATS = text(
    f"""
    SELECT a.token, c.id, c.number, CASE WHEN c.state = 'stored' THEN
           (SELECT count(*) FROM message m WHERE m.chat_id = c.id AND m.state = 'stored') END,
           {_RFC3339.format("c.created_at")}, {_RFC3339.format("c.updated_at")}
    FROM application a JOIN chat c ON c.application_id = a.id
    WHERE a.removed_at IS NULL AND {_TOKEN_FILTER} ORDER BY a.token, c.number"""
)

EXPORTED_MESSAGES = text(
    f"""
    SELECT m.chat_id, m.number, CASE WHEN m.state = 'stored' THEN m.text END,
           {_RFC3339.format("m.created_at")}, {_RFC3339.format("m.updated_at")}
    FROM (SELECT c.id FROM application a JOIN chat c ON c.application_id = a.id
          WHERE a.removed_at IS NULL AND c.state = 'stored' AND {_TOKEN_FILTER}
          ORDER BY a.token, c.number) c
    CROSS JOIN LATERAL (SELECT * FROM message WHERE chat_id = c.id ORDER BY number) m"""
)


def stream_rows(connection: Connection, statement: TextClause, token: str | None) -> Iterator[Any]:
    """An exported statement's rows, read a page at a time."""
    options = {"yield_per": PAGE}
    yield from connection.execute(statement, {"token": token}, execution_options=options)


def count_exported(connection: Connection, token: str | None) -> int:
    """How many lines the exported statements give together."""
    return sum(
        connection.scalar(
            text(f"SELECT count(*) FROM ({statement.text}) AS rows"), {"token": token}
        )
        or 0
        for statement in (EXPORTED_APPLICATIONS, EXPORTED_CHATS, EXPORTED_MESSAGES)
    )
