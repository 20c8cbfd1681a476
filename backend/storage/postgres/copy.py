"""COPY: rows as PostgreSQL takes them quickest."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any

import psycopg2
from sqlalchemy import Connection

from backend.domain.events import moment

LINES_AT_ONCE = 500  # sent to COPY


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    delta = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def copy_time(micros: int) -> str:
    """A time as COPY reads it."""
    second, rest = divmod(micros, 1_000_000)
    return f"{_copy_second(second)}.{rest:06}+00"


@lru_cache(maxsize=64)  # what one batch holds was accepted within a few seconds
def _copy_second(second: int) -> str:
    return moment(second * 1_000_000).replace(tzinfo=None).isoformat()


def escaped(value: str) -> str:
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    if "\r" in value:
        value = value.replace("\r", "\\r")
    return value


def copy(tx: Connection, into: str, lines: Iterable[str]) -> None:
    cursor = _cursor(tx)
    try:
        cursor.copy_expert(f"COPY {into} FROM STDIN", _Lines(lines))
    finally:
        cursor.close()


class _Lines:
    """Lines as the file that COPY reads, so that they are made while PostgreSQL stores those before."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def read(self, _: int) -> bytes:
        # A lone surrogate passes: PostgreSQL refuses it as it does all that is not UTF-8.
        return "".join(islice(self._lines, LINES_AT_ONCE)).encode("utf-8", "surrogatepass")


def _cursor(tx: Connection) -> Any:
    connection = tx.connection.driver_connection
    assert isinstance(connection, psycopg2.extensions.connection)
    return connection.cursor()
