"""Locks that processes hold against each other: advisory locks, table locks, and their stuck holders."""

import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.storage.postgres.database import Database


class AdvisoryLock(IntEnum):
    """The keys of the advisory locks: any numbers that no other program of this database uses."""

    MIGRATION = 7_203_511
    RESERVATIONS = 7_203_512  # with the shard's number
    REINDEX = 7_203_513


_REINDEX_LOCK = {"class": int(AdvisoryLock.REINDEX), "object": 1}

LOCK_TIMEOUT_SECONDS = 2.0

_MAX_HOLDER_BYTES = 63  # of an application_name: PostgreSQL cuts what is longer

_POLL_SECONDS = 0.02


class Holder(NamedTuple):
    """Who reindexes right now, as far as PostgreSQL lets us see, and since when."""

    name: str
    since: datetime | None


class ReindexRunning(Exception):
    """Somebody else reindexes."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def exclusive_reindex(database: Database) -> Iterator[Connection]:
    """Be the only one of this database that reindexes, for as long as the connection that is given lives.

    It is a connection of its own, so whatever ends its process also ends the lock, and it bears the holder's
    name, which others are told. Raises ReindexRunning, changing nothing, if there is one already.
    """
    with closing(Database(database.url)) as own, own.connect() as connection:
        connection.execute(
            text(
                "SELECT set_config('application_name', :name, false),"
                " set_config('idle_session_timeout', '0', false),"
                " set_config('synchronous_commit', 'off', false)"  # a lost checkpoint costs a page
            ),
            {"name": _holder_name()},
        )
        if not connection.scalar(
            text("SELECT pg_try_advisory_lock(:class, :object)"), _REINDEX_LOCK
        ):
            raise ReindexRunning(_holder(connection))
        yield connection


def _holder_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = f"user {os.getuid()}"
    name = f"{user}@{socket.gethostname()}, process {os.getpid()}"
    return name.encode("ascii", "replace")[:_MAX_HOLDER_BYTES].decode()


def _holder(connection: Connection) -> Holder:
    row = connection.execute(
        text(
            """
            SELECT a.application_name, a.backend_start
            FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = :class
              AND l.objid = :object
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        ),
        _REINDEX_LOCK,
    ).one_or_none()
    if row is None:
        return Holder("somebody who is done by now", None)
    return Holder(row[0] or "another user of PostgreSQL", row[1])


def lock_migration(tx: Connection) -> None:
    """Wait for every other migration of this database to end; held until the transaction ends."""
    tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": int(AdvisoryLock.MIGRATION)})


def reserve_numbers(tx: Connection, shard: int) -> None:
    """Say, for the transaction, that numbers of this shard are given which only the caller will store."""
    tx.exec_driver_sql("SET LOCAL lock_timeout = 4000")  # who has it so does that for a moment
    tx.execute(
        text("SELECT pg_advisory_xact_lock_shared(:key, :shard)"),
        {"key": int(AdvisoryLock.RESERVATIONS), "shard": shard},
    )


def try_exclude_reservations(tx: Connection, shard: int) -> bool:
    """Have it so for the transaction that there are no such numbers; False if there are some right now."""
    return bool(
        tx.scalar(
            text("SELECT pg_try_advisory_xact_lock(:key, :shard)"),
            {"key": int(AdvisoryLock.RESERVATIONS), "shard": shard},
        )
    )


def lock_publishing(tx: Connection) -> None:
    """Hold the flag until the transaction ends, once all who have read it before are done.

    What is read from SQL after the commit holds all that they changed. Raises Unavailable if one of them
    takes too long: all others wait behind this, hence not for long.
    """
    tx.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_SECONDS * 1000)}"))
    # Who reads the flag holds the weakest lock until it commits; only this one waits for that.
    tx.execute(text("LOCK TABLE installation IN ACCESS EXCLUSIVE MODE"))


def block_publishers(tx: Connection, seconds: float) -> bool:
    """Have nobody publish until the transaction ends, once all who do are done; False if that takes longer.

    Whoever leases rows shares a lock on the indices' rows; what was leased before is waited for.
    """
    tx.execute(text("SELECT FROM search_index FOR UPDATE"))
    leased = text("SELECT EXISTS (SELECT FROM outbox WHERE leased_until > clock_timestamp())")
    deadline = time.monotonic() + seconds
    while tx.scalar(leased):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def name_transaction(tx: Connection, name: str) -> None:
    """Name the transaction, so that pg_stat_activity shows operators and the next drain what it is."""
    tx.execute(text("SELECT set_config('application_name', :name, true)"), {"name": name})


def terminate_stuck_transactions(connection: Connection, name: str, seconds: float) -> int:
    """End transactions of that name that are open for longer; returns how many.

    No time-out of PostgreSQL's frees a lock whose holder was stopped inside COPY.
    """
    return len(
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = :name AND datname = current_database()"
                " AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
            ),
            {"name": name, "seconds": seconds},
        ).all()
    )
