"""COPY: the quickest way to store rows."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import psycopg2

from backend.domain.events import from_micros
from backend.storage.postgres.database import Connection

COPY_LINES_PER_READ = 500  # sent to PostgreSQL together


def format_copy_time(micros: int) -> str:
    """A time, in microseconds since 1970, as COPY reads it."""
    second, rest = divmod(micros, 1_000_000)
    return f"{_format_second(second)}.{rest:06}+00"


@lru_cache(maxsize=64)  # the messages of one batch were accepted within a few seconds
def _format_second(second: int) -> str:
    return from_micros(second * 1_000_000).replace(tzinfo=None).isoformat()


def escape_copy(value: str) -> str:
    """A text as COPY reads it."""
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    if "\r" in value:
        value = value.replace("\r", "\\r")
    return value


def escape_copy_or_null(value: str | None) -> str:
    """A text or null, as COPY reads it."""
    return "\\N" if value is None else escape_copy(value)


def copy_rows(tx: Connection, table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    """Store a line's values as a row of these columns, all lines or none. Lines have their end."""
    cursor = _driver_cursor(tx)
    reader = _LineReader(lines)
    try:
        cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", reader)
    except psycopg2.Error:
        if reader.failure is not None:
            raise reader.failure from None
        raise
    finally:
        cursor.close()


class _LineReader:
    """Lines as the file that COPY reads, so that they are made while PostgreSQL stores those before.

    The driver drops whatever `read` raises, a KeyboardInterrupt too, and raises that the statement was
    cancelled. So the `failure` is kept here.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.failure: BaseException | None = None

    def read(self, _: int) -> bytes:
        try:
            text = "".join(islice(self._lines, COPY_LINES_PER_READ))
            # A lone surrogate passes: PostgreSQL refuses it, as it refuses everything that is not UTF-8.
            return text.encode("utf-8", "surrogatepass")
        except BaseException as failure:
            self.failure = failure
            raise


def _driver_cursor(tx: Connection) -> Any:
    connection = tx.connection.driver_connection
    assert isinstance(connection, psycopg2.extensions.connection)
    return connection.cursor()
