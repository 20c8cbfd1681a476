"""The connection to PostgreSQL, and its errors as the program's own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg2
import sqlalchemy
from sqlalchemy import Connection as Connection  # re-exported: callers annotate with it
from sqlalchemy import Engine, QueuePool, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from backend.domain.errors import EngineDown, Failed, SchemaMismatch, Unavailable
from backend.settings import redact
from backend.storage.postgres.schema import Schema, read_schema
from backend.storage.postgres.url import dialect_url

CONNECT_TIMEOUT_SECONDS = 3
POOL_SIZE = 10  # of one process
MAX_CONNECTIONS = 30
READ_ONLY = "25006"  # the error of a write where none is possible
PING_AFTER_IDLE_SECONDS = 0.1  # since a connection's last use; a restart takes longer


class PoolUsage(NamedTuple):
    """How many connections are in use, and how many can be."""

    in_use: int
    size: int


@dataclass(frozen=True, slots=True)
class Installation:
    """What is fixed when a database is first migrated."""

    id: str
    shards: range
    """The numbers of its shards. An installation from before schema 0010 has 0 to 15."""


class Database:
    """One PostgreSQL database. Thread-safe.

    Every use raises EngineDown when PostgreSQL does not answer, SchemaMismatch when the schema is not one
    that this program can use.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._installation: Installation | None = None
        try:
            self.engine = create_engine(
                dialect_url(url),
                pool_size=POOL_SIZE,
                max_overflow=MAX_CONNECTIONS - POOL_SIZE,
                connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS},
            )
        except (SQLAlchemyError, ValueError) as error:
            raise Failed(
                f"the database URL {redact(url)} can't be used: {type(error).__name__}",
                "it looks like postgresql://USER:PASSWORD@HOST/DATABASE (INSTACHAT_DATABASE_URL)",
            ) from None
        _check_pooled_connections(self.engine)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def pool(self) -> PoolUsage:
        """How many connections are in use, and how many can be."""
        assert isinstance(self.engine.pool, QueuePool)
        return PoolUsage(self.engine.pool.checkedout(), MAX_CONNECTIONS)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for reading; each statement sees what is committed when it starts."""
        with self._translate_errors(), self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def begin(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction, committed at the end, durably, whatever the server's default.

        Without `durable` a crash of the server may undo it. Use only for work that can safely be repeated.
        """
        with self._translate_errors(), self.engine.begin() as connection:
            connection.exec_driver_sql(
                f"SET LOCAL synchronous_commit = {'on' if durable else 'off'}"
            )
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection for long reads: all statements see the same moment."""
        with self._translate_errors(), self.engine.connect() as connection:
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            yield connection

    @property
    def installation(self) -> Installation:
        """The database's identity and its shards; read once."""
        if self._installation is None:
            with self.connect() as connection:
                row = connection.execute(
                    text("SELECT id, first_shard, shards FROM installation")
                ).one()
            self._installation = Installation(
                str(row.id), range(row.first_shard, row.first_shard + row.shards)
            )
        return self._installation

    def schema(self) -> Schema | None:
        """The schema of the database; None if it has no tables."""
        with self.connect() as connection:
            return read_schema(connection)

    def check_schema(self) -> Schema:
        """The schema of the database. Raises SchemaMismatch unless this program may use it.

        Costs two short queries: programs that run until they are stopped call it again and again.
        """
        found = self.schema()
        if found is None:
            raise SchemaMismatch(
                f"the database {redact(self.url)} has no tables yet", "run `instachat migrate`"
            )
        if mismatch := found.mismatch():
            raise mismatch
        return found

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        # The latter from COPY, which SQLAlchemy does not wrap.
        except (DBAPIError, psycopg2.Error) as error:
            code = sqlstate(error)
            if code in (
                "42P01",
                "42703",
            ):  # as after a migration that removed what it has no use for
                raise SchemaMismatch(
                    "the database lacks a table or a column of this program",
                    "run `instachat migrate`; if there is nothing to migrate, run a newer instachat",
                ) from error
            if code and code.startswith(("40", "55P03", "57014")):
                raise Unavailable(
                    "PostgreSQL was busy with the same rows; nothing was changed", "try again"
                ) from error
            if code == READ_ONLY:  # another host takes the writes since a failover, or soon
                self.engine.dispose()
            if code is None or code.startswith(("08", "53", "57", READ_ONLY)):
                raise self._engine_down(getattr(error, "orig", error)) from error
            raise
        except sqlalchemy.exc.TimeoutError as error:
            raise Unavailable("all connections to PostgreSQL are busy", "try again") from error

    def _engine_down(self, error: BaseException | None) -> EngineDown:
        reason = str(error).strip().splitlines()[0] if error and str(error).strip() else "no answer"
        url = redact(self.url)
        return EngineDown(
            f"PostgreSQL at {url} can't be used: {reason}",
            f"check it with `psql '{url}' -c 'SELECT 1'`; the setting is INSTACHAT_DATABASE_URL",
        )


def _check_pooled_connections(engine: Engine) -> None:
    """Replace a connection to a server that was restarted or takes no writes any more, before it is used.

    So a restart costs no failed request, and after a failover nothing is read from the former primary.
    SQLAlchemy's own `pool_pre_ping` checks each time, which is half of the cost of a connection.
    """

    @event.listens_for(engine, "connect")
    def record_mode(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["read_only"] = is_read_only(connection)

    @event.listens_for(engine, "checkin")
    def record_checkin(_: object, record: ConnectionPoolEntry) -> None:
        record.info["checked_in_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        checked_in_at = record.info.get("checked_in_at")  # None for a new one
        if checked_in_at is None:
            return
        if time.monotonic() - checked_in_at >= PING_AFTER_IDLE_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except psycopg2.Error as error:
                raise InvalidatePoolError from error  # the other connections are as old
        if is_read_only(connection) and not record.info["read_only"]:
            raise InvalidatePoolError


def is_read_only(connection: Any) -> bool:
    """Whether a psycopg2 connection is one to a server that takes no writes; asks nothing.

    PostgreSQL reports both settings with each answer. A pooler may not pass the report on.
    """
    return "on" in (
        connection.get_parameter_status("default_transaction_read_only"),
        connection.get_parameter_status("in_hot_standby"),
    )


def is_unique_violation(error: BaseException) -> bool:
    """Whether a unique index has the key already."""
    return sqlstate(error) == "23505"


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's error code; None if the connection broke before PostgreSQL could send one."""
    original = getattr(error, "orig", error)
    return getattr(original, "pgcode", None)


def read_clock(connection: Connection) -> datetime:
    """The time by PostgreSQL's clock."""
    at: datetime = connection.scalar(text("SELECT clock_timestamp()"))
    return at
