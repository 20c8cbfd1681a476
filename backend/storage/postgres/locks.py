"""Locks that end with their transaction, and the transactions that hold one.

None is a session's: behind a connection pooler it would outlive its process.
"""

import time
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import exists, func, select, text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.tables import outbox, search_index

LOCK_TIMEOUT_SECONDS = 2.0
RESERVATION_TIMEOUT_SECONDS = 4.0
_POLL_SECONDS = 0.02


class NamedTransaction(NamedTuple):
    """An open transaction, and the point that it has reached: equal as long as it makes no progress.

    `changed_at` is when its last statement began or ended, `copied_bytes` what a COPY has read.
    """

    pid: int
    name: str
    began_at: datetime
    changed_at: datetime
    copied_bytes: int


class AdvisoryLock(IntEnum):
    """The keys of the advisory locks: any numbers that nothing else in this database uses."""

    MIGRATION = 7_203_511
    RESERVATIONS = 7_203_512  # with the shard's number


# text(), most of these: locks, settings and system views are no tables.
NAME_TRANSACTION = text("SELECT set_config('application_name', :name, true)")
NAMED_TRANSACTIONS = text(
    """
    SELECT a.pid, a.application_name AS name, a.xact_start AS began_at, a.state_change AS changed_at,
           coalesce(p.bytes_processed, 0) AS copied_bytes
    FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy p ON p.pid = a.pid
    WHERE a.application_name = :name AND a.datname = current_database() AND a.xact_start IS NOT NULL
      AND a.wait_event IS DISTINCT FROM 'SyncRep'"""
)
TERMINATE = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = :pid AND application_name = :name AND xact_start = :began_at
      AND state_change = :changed_at"""
)
LOCK_INDICES = select(search_index.c.name).with_for_update()
HAS_LEASED_ROWS = select(exists().where(outbox.c.leased_until > func.clock_timestamp()))


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
    """Name the transaction in pg_stat_activity, for operators and for those that end stuck transactions."""
    tx.execute(NAME_TRANSACTION, {"name": name})


def named_transactions(connection: Connection, name: str) -> list[NamedTransaction]:
    """The open transactions of that name.

    Without those that have committed and wait for a synchronous standby: their locks would be free, and
    everybody would see what no standby has, if they were ended.
    """
    rows = connection.execute(NAMED_TRANSACTIONS, {"name": name}).mappings()
    return [NamedTransaction(**row) for row in rows]


def terminate(connection: Connection, transaction: NamedTransaction) -> bool:
    """End a transaction, unless another statement of it has begun or ended; returns whether it did."""
    return bool(connection.scalar(TERMINATE, transaction._asdict()))
