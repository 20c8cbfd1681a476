"""Locks of more than a row, and the end of transactions that hold one for too long."""

import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import exists, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.tables import outbox, search_index

LOCK_TIMEOUT_SECONDS = 2.0
RESERVATION_TIMEOUT_SECONDS = 4.0
_MAX_HOLDER_BYTES = 63  # of an application_name: PostgreSQL cuts what is longer
_POLL_SECONDS = 0.02


class AdvisoryLock(IntEnum):
    """The keys of the advisory locks: any numbers that nothing else in this database uses."""

    MIGRATION = 7_203_511
    RESERVATIONS = 7_203_512  # with the shard's number
    REINDEX = 7_203_513


class Holder(NamedTuple):
    """The process that reindexes now, as far as PostgreSQL shows it, and since when."""

    name: str
    since: datetime | None


class ReindexRunning(Exception):
    """Another process reindexes."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(holder)
        self.holder = holder


_REINDEX_LOCK = {"class": AdvisoryLock.REINDEX.value, "object": 1}
# text(), most of these: locks, settings and system views are no tables.
NAME_SESSION = text(
    "SELECT set_config('application_name', :name, false),"
    " set_config('idle_session_timeout', '0', false),"
    " set_config('synchronous_commit', 'off', false)"  # a lost checkpoint costs a page
)
NAME_TRANSACTION = text("SELECT set_config('application_name', :name, true)")
TRY_LOCK_REINDEX = text("SELECT pg_try_advisory_lock(:class, :object)")
UNLOCK_REINDEX = text("SELECT pg_advisory_unlock(:class, :object)")
HOLDER_OF_REINDEX = text(
    """
    SELECT a.application_name AS name, a.backend_start AS since
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = :class
      AND l.objid = :object
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
)
TERMINATE_STUCK = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = :name AND datname = current_database()
      AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"""
)
LOCK_INDICES = select(search_index.c.name).with_for_update()
HAS_LEASED_ROWS = select(exists().where(outbox.c.leased_until > func.clock_timestamp()))


@contextmanager
def exclusive_reindex(database: Database) -> Iterator[Connection]:
    """Hold the lock of the only reindex of this database, on the connection that is yielded.

    The connection serves this lock alone, so the lock ends with the process, however that ends. It has the
    holder's name, which other processes report. Raises ReindexRunning, changing nothing, if another process
    holds the lock.
    """
    with closing(Database(database.url)) as own, own.connect() as connection:
        connection.execute(NAME_SESSION, {"name": _holder_name()})
        if not connection.scalar(TRY_LOCK_REINDEX, _REINDEX_LOCK):
            raise ReindexRunning(_holder(connection))
        try:
            yield connection
        finally:
            # PostgreSQL notices a closed connection a moment later; the next reindex need not wait for that.
            with suppress(SQLAlchemyError):  # the connection is lost, and the lock with it
                connection.execute(UNLOCK_REINDEX, _REINDEX_LOCK)


def _holder_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = f"user {os.getuid()}"
    name = f"{user}@{socket.gethostname()}, process {os.getpid()}"
    return name.encode("ascii", "replace")[:_MAX_HOLDER_BYTES].decode()


def _holder(connection: Connection) -> Holder:
    row = connection.execute(HOLDER_OF_REINDEX, _REINDEX_LOCK).one_or_none()
    if row is None:
        return Holder("a process that has ended by now", None)
    return Holder(row.name or "another user of PostgreSQL", row.since)


def lock_migration(tx: Connection) -> None:
    """Wait for every other migration of this database; the lock is held until the transaction ends."""
    statement = text("SELECT pg_advisory_xact_lock(:key)")
    tx.execute(statement, {"key": AdvisoryLock.MIGRATION.value})


def reserve_numbers(tx: Connection, shard: int) -> None:
    """Mark until the transaction ends that numbers of this shard are issued which only the caller stores."""
    # A transaction that excludes reservations holds this lock for a moment only.
    tx.exec_driver_sql(f"SET LOCAL lock_timeout = {int(RESERVATION_TIMEOUT_SECONDS * 1000)}")
    statement = text("SELECT pg_advisory_xact_lock_shared(:key, :shard)")
    tx.execute(statement, {"key": AdvisoryLock.RESERVATIONS.value, "shard": shard})


def try_exclude_reservations(tx: Connection, shard: int) -> bool:
    """Block new reservations until the transaction ends; False, blocking none, if another has one."""
    statement = text("SELECT pg_try_advisory_xact_lock(:key, :shard)")
    return bool(tx.scalar(statement, {"key": AdvisoryLock.RESERVATIONS.value, "shard": shard}))


def lock_publishing(tx: Connection) -> None:
    """Lock the flag `publishing` until the transaction ends, once all transactions that have read it ended.

    What is read from SQL after the commit includes all that they changed. Raises Unavailable if one of them
    takes too long: all other transactions wait behind this one, so it must not wait for long.
    """
    tx.exec_driver_sql(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_SECONDS * 1000)}")
    # Reading the flag takes the weakest lock until the commit; only this mode waits for that.
    tx.execute(text("LOCK TABLE installation IN ACCESS EXCLUSIVE MODE"))


def block_publishers(tx: Connection, seconds: float) -> bool:
    """Block publishers until the transaction ends, once their leases have ended; False if that takes longer.

    A publisher that leases rows takes a shared lock on the indices' rows; earlier leases are waited for.
    """
    tx.execute(LOCK_INDICES)
    deadline = time.monotonic() + seconds
    while tx.scalar(HAS_LEASED_ROWS):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def name_transaction(tx: Connection, name: str) -> None:
    """Name the transaction in pg_stat_activity, for operators and for `terminate_stuck_transactions`."""
    tx.execute(NAME_TRANSACTION, {"name": name})


def terminate_stuck_transactions(connection: Connection, name: str, seconds: float) -> int:
    """End transactions of that name that have been open for longer; returns how many.

    No time-out of PostgreSQL frees a lock whose holder was stopped inside COPY.
    """
    return len(connection.execute(TERMINATE_STUCK, {"name": name, "seconds": seconds}).all())
