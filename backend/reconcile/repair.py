"""Repair: the second step of `reconcile`, what repairs each kind of finding. Every part is idempotent.

A parent is repaired as a whole, past the log: its counter is raised to the highest number that anybody knows
to be given; then every number up to there without a row gets one that says `lost`, and what is gone is
counted anew. So no counter goes back, no number is given twice, and the live count is right again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from backend.domain.errors import Unavailable
from backend.domain.model import Parent, shard_of
from backend.ingest.direct_write import DirectWriter, WriteConflict
from backend.ingest.epochs import Epochs
from backend.storage.postgres import child_statistics, orphans, shards
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.orphans import Orphan
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log
from backend.storage.redis.types import StaleEpoch

MAX_ATTEMPTS = 5
CLOSE_BATCH_SIZE = 1_000


class Repairer:
    """Repairs what was found. Thread-safe.

    Raises Unavailable where a lock is held for too long, EngineDown when an engine is away: what was
    repaired until then stays so.
    """

    def __init__(
        self, log: Log, database: Database, epochs: Epochs, direct_writer: DirectWriter
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._direct_writer = direct_writer

    def repair_parent(self, parent: Parent, through: int) -> None:
        """Have a live parent's counter and its children's rows agree.

        `through` is the highest number that is known to be given, when nobody held any that was not
        stored (see `tallies.reserve_numbers`).
        """

        def store(tx: Connection, locked: LockedShard, _: Mapping[Parent, int]) -> None:
            lost = child_statistics.fill_gaps(tx, parent, through)
            child_statistics.recount_removed(tx, parent)
            if parent.chat is None:  # a chat that is lost may have a counter that takes messages
                self._close_in_epoch(shard, locked.epoch, [Parent(parent.token, n) for n in lost])

        shard = shard_of(parent.token, self._database.installation.shards)
        with suppress(WriteConflict):  # it was removed meanwhile
            self._direct_writer.write(shard, {parent: through}, store)

    def discard_counters(self, shard: int, found: Mapping[Parent, int]) -> None:
        """Remove counters whose parents do not exist, if they still say what was found."""
        self._in_one_epoch(shard, lambda epoch: self._log.discard(shard, epoch, found))

    def close_counters(self, shard: int, removed: Sequence[Parent]) -> None:
        """Close the counters of parents that are removed."""
        self._in_one_epoch(shard, lambda epoch: self._close_in_epoch(shard, epoch, removed))

    def dead_letter_orphans(self, found: Sequence[Orphan]) -> None:
        """Make dead letters of messages without a chat."""
        with self._database.begin() as tx:
            for orphan in found:
                orphans.dead_letter_orphan(tx, orphan)

    def _close_in_epoch(self, shard: int, epoch: int, removed: Sequence[Parent]) -> None:
        for start in range(0, len(removed), CLOSE_BATCH_SIZE):
            batch = removed[start : start + CLOSE_BATCH_SIZE]
            self._log.set_closed(shard, epoch, dict.fromkeys(batch, True))

    def _in_one_epoch(self, shard: int, repair: Callable[[int], None]) -> None:
        """Run a repair with the shard's epoch until it is done, claiming new lives in between."""
        for _ in range(MAX_ATTEMPTS):
            with self._database.connect() as connection:
                epoch, _ = shards.shard_state(connection, shard)
            try:
                return repair(epoch)
            except StaleEpoch as stale:
                self._epochs.begin_epoch(shard, stale.reason)
        raise Unavailable("Redis changes its epoch again and again", "see `instachat doctor`")
