"""Direct write: writes rows whose numbers are already assigned (imports, repairs) straight to SQL.

Accept must never issue those numbers again, which three steps ensure:

1. **Raise** the counters of the parents above all these numbers: from then on the accept script issues higher
   numbers only.
2. **Wait** until SQL has passed the log's end of that moment, so that all numbers issued before are stored.
3. **Write** under the shard's lock, in one transaction, if Redis is still in the epoch in which the counters
   were raised. Beginning a new epoch needs the same lock, and its counters are then raised to these rows.

The unique indexes catch any conflict that remains.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from backend.domain.errors import Unavailable
from backend.domain.model import Parent
from backend.ingest.barrier import Barrier
from backend.ingest.drain import transaction_name
from backend.ingest.epochs import Epochs
from backend.ingest.local_drain import ShardDrainer
from backend.ingest.routing import ApplicationElsewhere, Routing
from backend.storage.postgres import imports, locks, shards
from backend.storage.postgres.database import Connection, Database, is_unique_violation
from backend.storage.postgres.imports import StoredParent
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import Change

MAX_ATTEMPTS = 5
# Per attempt; all attempts together outlast the time-out of a stuck drain.
LOCK_TIMEOUT_SECONDS = 4.0

Store = Callable[[Connection, LockedShard, Mapping[Parent, int]], None]


class WriteConflict(Exception):
    """Another writer was first: a number is taken, or a parent is removed. Nothing is stored."""


class WrittenElsewhere(WriteConflict):
    """The application is in another shard. Nothing is stored."""


class DirectWriter:
    """Writes rows without the log. Thread-safe."""

    def __init__(
        self,
        log: Log,
        database: Database,
        epochs: Epochs,
        routing: Routing,
        barrier: Barrier,
        drainer: ShardDrainer,
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._routing = routing
        self._barrier = barrier
        self._drainer = drainer

    @contextmanager
    def reserving(self, shards: Iterable[int]) -> Iterator[None]:
        """Keep numbers that are raised inside and not written yet from being called lost, or gone.

        Each `write` does so over its own attempts; a caller that repeats writes holds this over all of them.
        """
        with self._database.begin(durable=False, may_idle=True) as tx:
            for shard in sorted(shards):
                locks.reserve_numbers(tx, shard)
            yield

    def write_for(self, token: str, numbers: Mapping[Parent, int], store: Store) -> None:
        """As `write`, in the shard of an application that all parents belong to."""
        for _ in range(MAX_ATTEMPTS):
            try:
                return self.write(self._routing.shard(token), numbers, store)
            except WrittenElsewhere:
                continue
        raise Unavailable(
            "the application moves from shard to shard", "see `instachat status`, then try again"
        )

    def write(self, shard: int, numbers: Mapping[Parent, int], store: Store) -> None:
        """Run `store` in a transaction, once the parents' counters are above `numbers`; it gets the parents'
        ids.

        `store` may run again after a transaction was rolled back. Raises WriteConflict if a parent does not
        exist or is removed, or if a number is taken; WrittenElsewhere if a parent is not in this shard (any
        more), which the routing knows then; Unavailable if a lock is held for too long; EngineDown
        if an engine is away.
        """
        try:
            with self.reserving([shard]):
                written = self._write(shard, numbers, store)
        except ApplicationElsewhere as error:
            raise WrittenElsewhere from error
        except Exception as error:
            if not is_unique_violation(error):
                raise
            raise WriteConflict from error
        if not written:
            raise Unavailable(
                f"shard {shard} is locked for too long, or Redis changes its epoch again and again",
                "see `instachat status`, then try again",
            )
        self._log.notify_changes([Change(*parent) for parent in numbers])

    def _write(self, shard: int, numbers: Mapping[Parent, int], store: Store) -> bool:
        """Write; False if all attempts failed."""
        for _ in range(MAX_ATTEMPTS):
            with self._epochs.renewed_on_stale(shard):
                if self._try_write(shard, numbers, store):
                    return True
        return False

    def _try_write(self, shard: int, numbers: Mapping[Parent, int], store: Store) -> bool:
        """Write once; False if the shard is locked, or its epoch changed after the counters were raised."""
        epoch = self._raise_counters(shard, numbers)
        with self._database.begin() as tx:
            locked = shards.lock_shard(tx, shard, wait_seconds=LOCK_TIMEOUT_SECONDS)
            if locked is not None and locked.epoch == epoch:
                # Named as a drain, so that others end this transaction if it is stuck.
                locks.name_transaction(tx, transaction_name(shard))
                parents = self._require_alive(tx, shard, numbers)
                store(tx, locked, {parent: row.id for parent, row in parents.items()})
                return True
        if locked is None:
            self._drainer.drain(shard)  # which ends a drain that is stuck
        return False

    def _raise_counters(self, shard: int, numbers: Mapping[Parent, int]) -> int:
        """Raise the parents' counters above these numbers, and wait until what they issued before is stored.

        Returns the epoch in which the counters were raised. Raises StaleEpoch, and WriteConflict if a parent
        is removed.
        """
        create = False
        while True:
            with self._database.connect() as connection:
                # The epoch first: if another process begins a new one after this, Redis refuses the call
                # below.
                epoch, _ = shards.shard_state(connection, shard)
                parents = self._require_alive(connection, shard, numbers)
            complete, end = self._log.raise_all(
                shard,
                epoch,
                {
                    parent: max(number, parents[parent].highest)
                    for parent, number in numbers.items()
                },
                create=create,
            )
            self._barrier.wait_through(shard, end)
            if complete:
                return epoch
            # A missing counter may be created now: the numbers it had issued were in the log, and are stored.
            create = True

    def _require_alive(
        self, connection: Connection, shard: int, parents: Collection[Parent]
    ) -> Mapping[Parent, StoredParent]:
        """The parents' rows. Raises WriteConflict if one does not exist or is removed.

        Raises ApplicationElsewhere if one is in another shard. In a transaction that holds the shard's lock
        none can leave it.
        """
        found = imports.find_stored_parents(connection, parents)
        if len(found) < len(parents) or any(row.removed for row in found.values()):
            raise WriteConflict
        for row in found.values():
            self._routing.check(row.token, row.placed, shard)
        return found
