"""Leases: locks that a process keeps by a heartbeat, and that outlive it for a few seconds at most.

A lock of a session would end with its process at once, but behind a connection pooler a session belongs to
no process. A lease is a row with the time at which it expires, by PostgreSQL's clock. Its holder extends it
twice a second. If a holder is suspended for so long that the lease expires, another process may take it over.
So a holder calls `confirm` in each transaction whose changes must not interfere with the next holder's.
"""

import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from backend.domain.errors import InstaChatError
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.statements import RowMapper

LEASE_SECONDS = 15.0
HEARTBEAT_SECONDS = 0.5
MAX_IDLE_SECONDS = (
    60  # between two statements of a transaction; requests to Elasticsearch take less
)
_POLL_SECONDS = 0.1
_JOIN_SECONDS = 1.0  # a heartbeat that hangs is not waited for
logger = logging.getLogger(__name__)


class Holder(NamedTuple):
    """The process that holds a lease, since when, and until when unless it extends it."""

    name: str
    since: datetime
    expires_at: datetime


class LeaseHeld(Exception):
    """Another process holds the lease."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(holder)
        self.holder = holder


class LeaseLost(Exception):
    """The lease expired while this process did not run, and another process took it."""


_EXPIRY = "clock_timestamp() + make_interval(secs => :seconds)"
# text(), all of these: PostgreSQL's clock in every expression.
TAKE = text(
    f"""
    INSERT INTO lease AS held (name, term, taken_at, expires_at, holder)
    VALUES (:name, gen_random_uuid(), clock_timestamp(), {_EXPIRY}, :holder)
    ON CONFLICT (name) DO UPDATE
    SET term = excluded.term, taken_at = excluded.taken_at, expires_at = excluded.expires_at,
        holder = excluded.holder
    WHERE held.expires_at <= clock_timestamp()
    RETURNING term"""
)
# A holder that is suspended in its transaction must not keep the row's lock, and others, for ever.
EXTEND = text(
    f"""
    UPDATE lease SET expires_at = {_EXPIRY} WHERE name = :name AND term = :term
    RETURNING set_config('idle_in_transaction_session_timeout', '{MAX_IDLE_SECONDS}s', true)"""
)
RELEASE = text("DELETE FROM lease WHERE name = :name AND term = :term")
HOLDER = text("SELECT holder AS name, taken_at AS since, expires_at FROM lease WHERE name = :name")
IS_HELD = text(
    "SELECT EXISTS (SELECT FROM lease WHERE name = :name AND expires_at > clock_timestamp())"
)
_HOLDER = RowMapper(Holder)


class Lease:
    """A lease that this process holds, made by `hold`. Thread-safe."""

    def __init__(self, database: Database, name: str, term: str) -> None:
        self._database = database
        self._key = {"name": name, "term": term}
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {name}", daemon=True)
        self._thread.start()

    def raise_if_lost(self) -> None:
        """Raise LeaseLost if the last heartbeat found that another process has the lease."""
        if self._lost.is_set():
            raise LeaseLost

    def confirm(self, tx: Connection) -> None:
        """Extend the lease, and keep other processes from taking it until the transaction ends.

        Raises LeaseLost if another process has it: the caller must not commit.
        """
        if not tx.execute(EXTEND, {**self._key, "seconds": LEASE_SECONDS}).rowcount:
            self._lost.set()
            raise LeaseLost

    def release(self) -> None:
        """Let other processes take the lease. If PostgreSQL does not answer, they can when it expires."""
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)
        with suppress(InstaChatError), self._database.begin(durable=False) as tx:
            tx.execute(RELEASE, self._key)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                with self._database.begin(durable=False) as tx:
                    self.confirm(tx)
            except LeaseLost:
                return
            except InstaChatError as error:
                logger.debug("%s; the lease was not extended", error.message)
            except Exception:
                logger.exception("the lease was not extended")


@contextmanager
def hold(database: Database, name: str) -> Iterator[Lease]:
    """Hold the lease of that name.

    Raises LeaseHeld, changing nothing, if another process holds it. This is certain within a heartbeat. A
    lease whose holder has been killed is taken over as soon as it expires.
    """
    lease = Lease(database, name, _take(database, name))
    try:
        yield lease
    finally:
        lease.release()


def is_held(connection: Connection, name: str) -> bool:
    """Whether a process holds the lease of that name, or held it when it was killed a moment ago."""
    return bool(connection.scalar(IS_HELD, {"name": name}))


def _take(database: Database, name: str) -> str:
    """Take the lease; returns its term."""
    values = {"name": name, "holder": _holder_name(), "seconds": LEASE_SECONDS}
    seen: Holder | None = None
    while True:
        with database.begin() as tx:
            term: str | None = tx.scalar(TAKE, values)
        if term is not None:
            return term
        with database.connect() as connection:
            holder = _HOLDER.one_or_none(connection.execute(HOLDER, {"name": name}))
        if holder is None:  # released meanwhile
            continue
        if seen is not None and seen.since == holder.since and seen != holder:
            raise LeaseHeld(holder)  # it has just been extended
        if seen is None:
            logger.info("%s holds the lease %s; is it running?", holder.name, name)
        seen = holder
        time.sleep(_POLL_SECONDS)


def _holder_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"
