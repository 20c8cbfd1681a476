"""Drain: from the log into SQL, each event exactly once.

The position is a row in SQL, the shard's cursor, and it moves in the same transaction that stores the events.
A crash before the commit stores nothing, and a crash after it repeats nothing: there is no acknowledgement
that could be lost. One drain works on a shard at a time, because it holds the lock of the shard's row. A
drain that finds the row locked returns at once: the holder looks for new entries after it has released the
lock. It holds the lock for a bounded time, because a batch is bounded in size and time. `fair_share` decides
whose entries are next.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import NamedTuple

from backend.domain.errors import EngineDown, InstaChatError, NodeDown
from backend.domain.model import EntryId
from backend.ingest.batch import DEFAULT_LIMITS, BatchLimits, ShardLimits
from backend.ingest.batch_writer import BatchWriter
from backend.ingest.epochs import Epochs
from backend.ingest.fair_share import Share, Turns, share_of_deferred, share_of_others
from backend.storage.postgres import locks, shards
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.shards import LockedShard
from backend.storage.postgres.stuck_transactions import StuckTransactions
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import Change
from backend.storage.redis.types import DrainedLog, LogPage, StaleEpoch

STUCK_TIMEOUT_SECONDS = 10.0  # without progress

Step = Callable[[str], None]
logger = logging.getLogger(__name__)


def transaction_name(shard: int) -> str:
    """The name of the transactions that hold a shard while they write rows."""
    return f"instachat drain {shard}"


class _Turn:
    """A time after which a drain begins no other batch."""

    def __init__(self, seconds: float, may_continue: Callable[[], bool]) -> None:
        self._deadline = time.monotonic() + seconds
        self._may_continue = may_continue

    @property
    def is_over(self) -> bool:
        """Whether the time has passed."""
        return time.monotonic() >= self._deadline

    def may_continue(self) -> bool:
        """Whether another batch may begin."""
        return not self.is_over and self._may_continue()


class _Drained(NamedTuple):
    """How many entries a drain has stored, and whether it left `more` in the log."""

    entries: int
    more: bool


class _DrainedBatch(NamedTuple):
    """What was committed. `through` is the entry up to which Redis notes the log as stored."""

    share: Share
    through: EntryId
    epoch: int
    numbers: int
    in_outbox: bool
    waits_for: int | None
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
        limits: BatchLimits = DEFAULT_LIMITS,
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._notify_publisher = notify_publisher
        self._step = step
        self._limits = ShardLimits(limits)
        self._turns: defaultdict[int, Turns] = defaultdict(Turns)  # by shard
        self._stuck = StuckTransactions(database, stuck_timeout_seconds)
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

        If SQL has gone back in time, the log may wait for that of another shard, which is drained then; what
        another process drains is left to the next call.
        """
        return self._drain(shard, may_continue).entries

    def drain_for(self, shard: int, seconds: float, may_continue: Callable[[], bool]) -> bool:
        """As `drain`, but begin no batch after so many seconds; returns whether any was left because of that.

        A shard with a long backlog then does not keep a thread from the other shards.
        """
        turn = _Turn(seconds, may_continue)
        return self._drain(shard, turn.may_continue).more and turn.is_over

    def _drain(
        self, shard: int, may_continue: Callable[[], bool], *, is_nested: bool = False
    ) -> _Drained:
        entries = waiting = 0
        while not self._stopping.is_set():
            try:
                drained = self._epochs.retrying(shard, lambda: self._drain_batch(shard))
            except EngineDown:
                self._limits.halve(shard)
                raise
            if drained is None:
                self._end_stuck(shard)
                break
            self._limits.double(shard)
            entries += len(drained.share.batch)
            self._step("committed")
            self._log.notify_changes(drained.changes)
            if drained.in_outbox:
                self._notify_publisher()
            # Counted after the lock was released: a drain for these entries found it held, and returned.
            waiting = self._log.trim(
                shard,
                drained.epoch,
                DrainedLog(drained.through, drained.numbers),
                marks=drained.through == drained.share.progress.ahead,
            )
            self._step("trimmed")
            if not waiting or not may_continue():
                break
            if drained.waits_for is not None:
                # One level deep: what that shard waits for is the work of another call.
                drained_there = (
                    not is_nested
                    and self._drain(drained.waits_for, may_continue, is_nested=True).entries
                )
                if not drained_there and not drained.share.batch:
                    break
        return _Drained(entries, more=waiting > 0)

    def drain_all(
        self,
        may_continue: Callable[[], bool] = lambda: True,
        *,
        seconds_per_shard: float = float("inf"),
    ) -> int:
        """Drain every shard that needs it, as `drain_for` does; returns the number of entries read.

        These are the shards whose log goes on behind the cursor, and those that were not drained in their
        present epoch: what was lost with an earlier one is undecided until the cursor is in this one, even if
        nothing is accepted any more. After the failure of one shard the others are still drained, and then
        the first failure is raised; the next call begins with the others. If an engine is away for all
        shards, EngineDown is raised at once.
        """
        entries = 0
        failures: dict[int, InstaChatError] = {}
        ends = self._log.try_ends(self._database.refresh_installation().all_shards)
        with self._database.connect() as connection:
            states = shards.shard_states(connection)
        for shard in sorted(ends, key=self._failed.__contains__):
            end, (epoch, cursor) = ends[shard], states[shard]
            try:
                if isinstance(end, NodeDown):
                    raise end
                is_due = end.waiting or cursor < end.entry or cursor.epoch < epoch
                if is_due and may_continue():
                    turn = _Turn(seconds_per_shard, may_continue)
                    entries += self._drain(shard, turn.may_continue).entries
            except InstaChatError as error:
                if isinstance(error, EngineDown) and not isinstance(error, NodeDown):
                    raise
                failures[shard] = error
        self._failed = frozenset(failures)
        if failures:
            raise next(iter(failures.values()))
        return entries

    def _drain_batch(self, shard: int) -> _DrainedBatch | None:
        """Store one batch; None if another drain holds the shard. StaleEpoch stores nothing."""
        with self._database.begin(repeatable=True) as tx:
            locks.name_transaction(tx, transaction_name(shard))
            locked = shards.lock_shard(tx, shard)
            if locked is None:
                return None
            limits, turns = self._limits.of(shard), self._turns[shard]
            token = turns.next(locked.progress)
            page = self._read(shard, locked, token, limits)
            self._step("read")
            if token is None:
                may_defer = locked.cursor.epoch == locked.epoch
                share = share_of_others(page, locked.progress, limits, may_defer=may_defer)
            else:
                share = share_of_deferred(page, locked.progress, token, limits)
            writer = BatchWriter(
                tx, self._log, shard, locked, self._database.installation.initial_shards
            )
            writer.write(share.batch)
            if writer.waits_for is not None:
                share = share.cut(writer.written, locked.progress, token)
            numbers = locked.numbers
            if not locked.progress.deferred:
                self._count_lost(tx, shard, page.up_to(share.progress.ahead), numbers)
            if share.progress != locked.progress or share.batch:
                numbers = shards.advance(tx, shard, share.progress, writer.dropped, writer.stored)
            self._step("rows")
        is_rest = share.is_rest and page.complete
        turns.record(token, share, more=not is_rest)
        through = share.progress.cursor
        if page.after < through and not is_rest:
            # These entries are of an earlier epoch than the cursor, which therefore does not say where the
            # next ones begin: see `read_log.lua`.
            if share.is_rest:
                through = page.through
            else:
                through = share.batch[-1].entry_id if share.batch else page.after
        return _DrainedBatch(
            share,
            through,
            page.end.epoch,
            numbers,
            writer.in_outbox,
            writer.waits_for,
            writer.changes,
        )

    def _read(
        self, shard: int, locked: LockedShard, token: str | None, limits: BatchLimits
    ) -> LogPage:
        """The entries behind what is stored: of a deferred application, or of the others."""
        progress = locked.progress
        page = self._log.read(
            shard,
            locked.epoch,
            locked.installation,
            progress.ahead if token is None else progress.deferred[token],
            max_entries=limits.entries,
            max_bytes=limits.bytes,
        )
        if page.stored > locked.cursor:
            raise StaleEpoch("PostgreSQL went back")
        self._epochs.observe(shard, max(page.end, progress.ahead))
        if page.end < progress.ahead:
            # A drain would skip the numbers that this Redis issues now.
            raise StaleEpoch("rewound")
        if page.entries and page.last_entry > page.end:
            # Another program appended: accept could not append any more.
            raise StaleEpoch("ahead")
        return page

    def _count_lost(self, tx: Connection, shard: int, page: LogPage, numbers: int) -> None:
        """Record what the log lacks of these entries, if SQL had taken so many numbers before them."""
        if lost := page.missing_numbers(numbers):
            logger.error(
                "shard %d: %d numbers after entry %s are neither stored nor in the log any more",
                shard,
                lost,
                page.after,
            )
            shards.count_lost(tx, shard, lost)

    def _end_stuck(self, shard: int) -> None:
        """End a drain that holds the shard and makes no progress; what it tried may have been too much."""
        if self._stuck.end(transaction_name(shard)):
            self._limits.halve(shard)
            logger.warning("ended a drain of shard %d that made no progress", shard)
