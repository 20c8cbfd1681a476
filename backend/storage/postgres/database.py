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

from backend.domain.errors import (
    EngineDown,
    Invalid,
    SchemaMismatch,
    Unavailable,
    Unconfirmed,
)
from backend.settings import redact
from backend.storage.postgres.driver import (
    CONNECT_TIMEOUT_SECONDS,
    LOST_CONNECTION_OPTIONS,
    engine_down,
    first_line,
    is_read_only,
    refuse_encoding,
)
from backend.storage.postgres.schema import Schema, read_schema
from backend.storage.postgres.url import UnusableUrl, dialect_url

# After which PostgreSQL ends a transaction whose process sends nothing: its machine may have vanished, and
# its row locks keep others waiting.
MAX_IDLE_TRANSACTION_SECONDS = 60
POOL_SIZE = 10  # of one process
MAX_CONNECTIONS = 30
READ_ONLY = "25006"  # the error of a write where none is possible
NOT_PERMITTED = "42501"  # the role lacks a privilege
PING_AFTER_IDLE_SECONDS = 0.1  # since a connection's last use; a restart takes longer


# text(): an array of another table's rows.
_INSTALLATION = text(
    """
    SELECT id, first_shard, shards, hash_first_shard, hash_shards, moved_at, rotations,
           array(SELECT number FROM shard ORDER BY number) AS all_shards
    FROM installation"""
)


_LIMIT_IDLE = f"""
    ; SELECT set_config('idle_in_transaction_session_timeout', '{MAX_IDLE_TRANSACTION_SECONDS}s', true)
    WHERE current_setting('idle_in_transaction_session_timeout') = '0'"""


class PoolUsage(NamedTuple):
    """How many connections are in use, and how many can be."""

    in_use: int
    size: int


@dataclass(frozen=True, slots=True)
class Installation:
    """The identity of a database, which is fixed, and its shards, which `instachat reshard` changes."""

    id: str
    shards: range
    """The shards over which tokens are hashed; from before schema 0010 these are 0 to 15."""
    initial_shards: range
    """Those of its beginning: applications whose row names no shard are hashed over these."""
    all_shards: tuple[int, ...]
    """Every shard that has a row: also those before and after a change, and those of one application."""
    moved_at: datetime | None
    """When an application last moved to another shard, to the minute; None if none ever did."""
    rotations: int
    """How often the token of an application was replaced."""


class Database:
    """One PostgreSQL database. Thread-safe.

    Every use raises EngineDown when PostgreSQL does not answer, SchemaMismatch when the schema is not one
    that this program can use. A connection whose other end has vanished is given up after fifteen seconds,
    unless the URL has the options of libpq that say otherwise.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._installation: Installation | None = None
        try:
            parsed = dialect_url(url)
            self.engine = create_engine(
                parsed.set(query={**LOST_CONNECTION_OPTIONS, **parsed.query}),
                pool_size=POOL_SIZE,
                max_overflow=MAX_CONNECTIONS - POOL_SIZE,
                connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS},
                hide_parameters=True,
                use_native_hstore=False,  # nothing here is one, and to look for the type takes a transaction
            )
        except (SQLAlchemyError, ValueError) as error:
            reason = str(error) if isinstance(error, UnusableUrl) else type(error).__name__
            raise Invalid(
                f"the database URL {redact(url)} can't be used: {reason}",
                "it looks like postgresql://USER:PASSWORD@HOST/DATABASE (INSTACHAT_DATABASE_URL)",
            ) from None
        _check_pooled_connections(self.engine)
        _reset_without_statements(self.engine)

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
    def begin(
        self, *, durable: bool = True, repeatable: bool = False, may_idle: bool = False
    ) -> Iterator[Connection]:
        """A transaction, committed at the end, durably, whatever the server's default.

        Raises Unconfirmed if PostgreSQL goes away while it commits, or EngineDown if the work is
        `repeatable`: its caller does it again anyway. After any other error nothing was changed. Without
        `durable` a crash of the server may undo the transaction, so such work is always repeatable.

        PostgreSQL ends the transaction after a minute without a statement, so that a process whose machine
        has vanished does not keep its locks; unless it `may_idle`, because it does long work of another kind,
        or the server has such a limit of its own.
        """
        with (
            self._translate_errors(),
            self.engine.connect() as connection,
            connection.begin() as transaction,
        ):
            connection.exec_driver_sql(
                f"SET LOCAL synchronous_commit = {'on' if durable else 'off'}"
                f"{'' if may_idle else _LIMIT_IDLE}"
            )
            yield connection
            if not transaction.is_active:  # the caller has rolled back
                return
            try:
                transaction.commit()
            except DBAPIError as error:
                if repeatable or not durable or _was_rolled_back(error):
                    raise
                raise Unconfirmed(
                    f"PostgreSQL at {redact(self.url)} went away while it committed: it is not known "
                    "whether this was done",
                    "read what you wanted to change before you repeat it",
                ) from error

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
        """The database's identity and its shards, as they were last read."""
        return self._installation or self.refresh_installation()

    def refresh_installation(self) -> Installation:
        """Read the database's identity and its shards again."""
        with self.connect() as connection:
            row = connection.execute(_INSTALLATION).one()
        initial = range(row.first_shard, row.first_shard + row.shards)
        hashed = (
            initial
            if row.hash_first_shard is None
            else range(row.hash_first_shard, row.hash_first_shard + row.hash_shards)
        )
        self._installation = Installation(
            str(row.id), hashed, initial, tuple(row.all_shards), row.moved_at, row.rotations
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
            if code == NOT_PERMITTED:
                raise EngineDown(
                    f"PostgreSQL at {redact(self.url)} refused: {first_line(error)}",
                    "see `instachat doctor`, which names what the role lacks",
                ) from error
            if code is None or code.startswith(("08", "53", "57", READ_ONLY)):
                raise engine_down(self.url, error) from error
            raise
        except sqlalchemy.exc.TimeoutError as error:
            raise Unavailable("all connections to PostgreSQL are busy", "try again") from error


def _check_pooled_connections(engine: Engine) -> None:
    """Replace a connection to a server that was restarted or takes no writes any more, before it is used.

    So a restart costs no failed request, and after a failover nothing is read from the former primary.
    SQLAlchemy's own `pool_pre_ping` checks each time, which is half of the cost of a connection.
    """

    @event.listens_for(engine, "connect")
    def record_mode(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        refuse_encoding(connection)
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


def _reset_without_statements(engine: Engine) -> None:
    """Give a connection that is returned the server's own isolation level and mode again.

    SQLAlchemy names these. psycopg2 then sends a `SET` after each read, which is half of its round trips; it
    sends none if they are None.
    """

    def reset_isolation_level(connection: Any) -> None:
        connection.autocommit = False  # first: otherwise a statement would set the level
        connection.isolation_level = None

    def set_readonly(connection: Any, value: bool) -> None:
        connection.readonly = value or None

    dialect: Any = engine.dialect
    dialect.reset_isolation_level, dialect.set_readonly = reset_isolation_level, set_readonly


def _was_rolled_back(error: DBAPIError) -> bool:
    """Whether PostgreSQL itself says that a COMMIT has failed.

    It says so by an ERROR. A lost connection, a FATAL or PANIC, and a pooler's word (class 08) leave it open.
    """
    diagnostics = getattr(error.orig, "diag", None)
    severity = getattr(diagnostics, "severity_nonlocalized", None)
    return severity == "ERROR" and not (sqlstate(error) or "08").startswith("08")


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
