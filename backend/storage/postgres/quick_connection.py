"""A connection to PostgreSQL for a command that reads once: by grouped reads, and without SQLAlchemy."""

from typing import Any, NamedTuple

import psycopg2
from psycopg2 import extensions

from backend.storage.postgres.driver import (
    CONNECT_TIMEOUT_SECONDS,
    LOST_CONNECTION_OPTIONS,
    TIME_AS_TEXT,
    Rows,
    engine_down,
    refuse_encoding,
)
from backend.storage.postgres.grouped_reads import GroupedRead, ReadValues
from backend.storage.postgres.schema import Schema
from backend.storage.postgres.url import driver_options

_INSTALLATION = """
    SELECT v.version_num, i.compatible_since, i.first_shard, i.shards,
           coalesce(i.hash_first_shard, i.first_shard), coalesce(i.hash_shards, i.shards), i.rotations
    FROM alembic_version v, installation i"""
_ROTATED = """
    SELECT token, current_token FROM application
    WHERE current_token = %(token)s OR (token = %(token)s AND current_token IS NOT NULL)"""


class QuickError(Exception):
    """What was asked can't be read in this way; an ordinary connection may, or says why not."""


class QuickInstallation(NamedTuple):
    """The shards over which tokens are hashed, and how often a token was replaced.

    Those of its beginning, `initial_shards`, are where applications are whose row names no shard.
    """

    shards: range
    initial_shards: range
    rotations: int


class QuickConnection:
    """A connection. Not thread-safe. Every error of PostgreSQL is a QuickError."""

    def __init__(self, url: str) -> None:
        """Connect. Raises EngineDown, and Failed if the database can't store every text."""
        try:
            given = driver_options(url)
        except (ValueError, psycopg2.Error):
            raise QuickError from None  # the error may have a part of a password
        options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
        options |= LOST_CONNECTION_OPTIONS | given
        try:
            self._connection = psycopg2.connect(**options)
        except psycopg2.Error as error:
            raise engine_down(url, error) from error
        refuse_encoding(self._connection)
        self._connection.autocommit = True
        extensions.register_type(TIME_AS_TEXT, self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def installation(self) -> QuickInstallation:
        """What reads need to know of the installation, if its schema is one that this program may use."""
        found = self._execute(_INSTALLATION)
        if len(found) != 1:
            raise QuickError
        number, compatible_since, *shards, rotations = found[0]
        if Schema(number, compatible_since).mismatch():
            raise QuickError
        initial_first, initial_size, first, size = shards
        return QuickInstallation(
            range(first, first + size),
            range(initial_first, initial_first + initial_size),
            rotations,
        )

    def original_token(self, token: str) -> str:
        """The original token of the application that a client's token names; an unknown token itself."""
        for original, current in self._execute(_ROTATED, {"token": token}):
            if current != token:
                raise QuickError  # it was replaced
            return str(original)
        return token

    def read(self, statement: GroupedRead, values: ReadValues) -> Rows:
        """The rows of one read; raises QuickError if there are none."""
        if rows := self._execute(*statement.execute([values], prepared=False)):
            return rows
        raise QuickError

    def _execute(self, statement: str, values: Any = None) -> Rows:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, values)
                rows: Rows = cursor.fetchall()
        except psycopg2.Error:
            raise QuickError from None  # the error may have a text of a row
        return rows
