"""Drain: from the log into SQL, each event exactly once.

The position is a row in SQL, the shard's cursor, and it moves in the same transaction that stores the events.
A crash before the commit stores nothing, and a crash after it repeats nothing: there is no acknowledgement
that could be lost. One drain works on a shard at a time, because it holds the lock of the shard's row. A
drain that finds the row locked returns at once: the holder looks for new entries after it has released the
lock.
"""

import logging
import threading
from collections.abc import Callable, Collection
from typing import NamedTuple

from backend.domain.errors import EngineDown, InstaChatError, NodeDown
from backend.ingest.batch_writer import BatchWriter
from backend.ingest.epochs import Epochs
from backend.storage.postgres import locks, shards
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import Change
from backend.storage.redis.types import DrainedLog, LogPage, StaleEpoch

MAX_BATCH_ENTRIES = 5_000  # of one transaction
MAX_BATCH_BYTES = 1024 * 1024  # messages wait for those after them in their batch
STUCK_TIMEOUT_SECONDS = 10.0

Step = Callable[[str], None]
logger = logging.getLogger(__name__)


class _DrainedPage(NamedTuple):
    page: LogPage
    numbers: int
    in_outbox: bool
    changes: Collection[Change]


class Drainer:
    """Moves events from the log to SQL. Thread-safe: one instance serves all threads of a process.

    `notify_publisher` is called after each commit that added to the outbox.
    `step` is called with `read`, `rows`, `committed` and `trimmed` when a batch has passed them, so that a
    test can end the process there.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        epochs: Epochs,
        *,
        notify_publisher: Callable[[], None] = lambda: None,
        step: Step = lambda _: None,
        stuck_timeout_seconds: float = STUCK_TIMEOUT_SECONDS,
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._notify_publisher = notify_publisher
        self._step = step
        self._stuck_timeout_seconds = stuck_timeout_seconds
        self._stopping = threading.Event()
        self._failed: frozenset[int] = frozenset()  # shards whose last sweep failed

    def stop(self) -> None:
        """Let the batches in progress finish, and start no other."""
        self._stopping.set()

    def drain(self, shard: int, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Store all entries of a shard's log that are not stored yet; returns the number of entries read.

        Returns early if another drain holds the shard; and between two batches after `stop`, or when
        `may_continue` returns False. Raises EngineDown when an engine is away, and Unavailable when Redis
        changes its epoch again and again; no event is lost or stored twice in any case.
        """
        entries = 0
        while not self._stopping.is_set():
            drained = self._epochs.retrying(shard, lambda: self._drain_batch(shard))
            if drained is None:
                self._end_stuck(shard)
                break
            page = drained.page
            entries += len(page.entries)
            self._step("committed")
            self._log.notify_changes(drained.changes)
            if drained.in_outbox:
                self._notify_publisher()
            # Counted after the lock was released: a drain for these entries found it held, and returned.
            drained_log = DrainedLog(page.through, drained.numbers)
            waiting = self._log.trim(shard, page.end.epoch, drained_log)
            self._step("trimmed")
            if not waiting or not may_continue():
                break
        return entries

    def drain_all(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Drain every shard that needs it, as `drain` does; returns the number of entries read.

        These are the shards whose log goes on behind the cursor, and those that were not drained in their
        present epoch: what was lost with an earlier one is undecided until the cursor is in this one, even if
        nothing is accepted any more. After the failure of one shard the others are still drained, and then
        the first failure is raised; the next call begins with the others. If an engine is away for all
        shards, EngineDown is raised at once.
        """
        entries = 0
        failures: dict[int, InstaChatError] = {}
        ends = self._log.try_ends(self._database.installation.shards)
        with self._database.connect() as connection:
            states = shards.shard_states(connection)
        for shard in sorted(ends, key=self._failed.__contains__):
            end, (epoch, cursor) = ends[shard], states[shard]
            try:
                if isinstance(end, NodeDown):
                    raise end
                is_due = end.waiting or cursor < end.entry or cursor.epoch < epoch
                entries += self.drain(shard, may_continue) if is_due and may_continue() else 0
            except InstaChatError as error:
                if isinstance(error, EngineDown) and not isinstance(error, NodeDown):
                    raise
                failures[shard] = error
        self._failed = frozenset(failures)
        if failures:
            raise next(iter(failures.values()))
        return entries

    def _drain_batch(self, shard: int) -> _DrainedPage | None:
        """Store one batch; None if another drain holds the shard. StaleEpoch stores nothing."""
        with self._database.begin() as tx:
            locks.name_transaction(tx, f"instachat drain {shard}")
            locked = shards.lock_shard(tx, shard)
            if locked is None:
                return None
            page = self._log.read(
                shard,
                locked.epoch,
                locked.installation,
                locked.cursor,
                max_entries=MAX_BATCH_ENTRIES,
                max_bytes=MAX_BATCH_BYTES,
            )
            if page.stored > locked.cursor:
                raise StaleEpoch("PostgreSQL went back")
            self._epochs.observe(shard, max(page.end, locked.cursor))
            if page.end < locked.cursor:
                # A drain would skip the numbers that this Redis issues now.
                raise StaleEpoch("rewound")
            if page.entries and page.last_entry > page.end:
                # Another program appended: accept could not append any more.
                raise StaleEpoch("ahead")
            self._step("read")
            writer = BatchWriter(tx, self._log, shard, locked)
            numbers = locked.numbers
            if lost := page.missing_numbers(numbers):
                logger.error(
                    "shard %d: %d numbers after entry %s are neither stored nor in the log any more",
                    shard,
                    lost,
                    page.after,
                )
                shards.count_lost(tx, shard, lost)
            if page.through > locked.cursor or page.entries:
                writer.write(page.entries)
                numbers = shards.advance_cursor(
                    tx, shard, max(page.through, locked.cursor), writer.dropped, writer.stored
                )
            self._step("rows")
        return _DrainedPage(page, numbers, writer.in_outbox, writer.changes)

    def _end_stuck(self, shard: int) -> None:
        """End the transaction of a drain that has held the shard for too long: stopped, or disconnected."""
        with self._database.connect() as connection:
            name = f"instachat drain {shard}"
            if locks.terminate_stuck_transactions(connection, name, self._stuck_timeout_seconds):
                logger.warning("ended a drain of shard %d that held it for too long", shard)
