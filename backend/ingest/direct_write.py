"""Past the log: writing numbers into SQL that no accepting gave, so that none is ever given twice.

1. **Raise** the counters of the parents above all these numbers: from here on the accept script gives
   higher ones only.
2. **Settle**: wait until SQL has passed the log's end of that moment, so that what was given before is
   stored.
3. **Write** under the shard's lock, in one transaction, if the life of Redis is still the one in which
   the counters were raised. A claim of a new life needs that lock, and then reads these rows.

The unique indexes have the last word.
"""

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection

from backend.domain.errors import Unavailable
from backend.domain.model import Parent
from backend.ingest.barrier import Settler
from backend.ingest.epochs import Lives
from backend.storage import postgres
from backend.storage.postgres import AsStored, Database, LockedShard, child_statistics
from backend.storage.redis.log import Log
from backend.storage.redis.types import LifeLost

ATTEMPTS = 5
LOCK_SECONDS = 4.0  # each attempt; together longer than a stuck drain is left alone

Store = Callable[[Connection, LockedShard, Mapping[Parent, int]], None]


class Overtaken(Exception):
    """Somebody else wrote before: a number is taken, or a parent is gone. Nothing is stored."""


class PastLog:
    """Writes past the log. Thread-safe."""

    def __init__(self, log: Log, database: Database, lives: Lives, settler: Settler) -> None:
        self._log = log
        self._database = database
        self._lives = lives
        self._settler = settler

    def write(self, shard: int, numbers: Mapping[Parent, int], store: Store) -> None:
        """Run `store` in a transaction, with the ids of parents whose counters are above `numbers`.

        `store` may be run again, after a transaction that was given up. Raises Overtaken if a parent is
        not there or removed, or somebody else's row is under a number; Unavailable if a lock is held for
        too long; EngineDown when an engine is away.
        """
        for _ in range(ATTEMPTS):
            try:
                with self._database.begin() as holding:
                    # What is raised and not written yet would look like a loss to `reconcile`.
                    child_statistics.hold_numbers(holding, shard)
                    epoch = self._raise(shard, numbers)
                    with self._database.begin() as tx:
                        locked = postgres.lock_shard(tx, shard, wait_seconds=LOCK_SECONDS)
                        if locked is not None and locked.epoch == epoch:
                            # A drain's name: whoever holds the shard for too long under it is ended.
                            postgres.name_transaction(tx, f"instachat drain {shard}")
                            parents = _alive(tx, numbers)
                            store(tx, locked, {parent: row.id for parent, row in parents.items()})
                            return
                if locked is None:
                    self._settler.unblock(shard)
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
            except Exception as error:
                if postgres.sqlstate(error) != postgres.TAKEN:
                    raise
                raise Overtaken from error
        raise Unavailable(
            f"shard {shard} is locked for too long, or Redis changes its life again and again",
            "see `instachat status`, then try again",
        )

    def _raise(self, shard: int, numbers: Mapping[Parent, int]) -> int:
        """Have the parents' counters above these numbers, and all they gave before stored.

        Returns the epoch in which that is so. LifeLost as usual; Overtaken if a parent is gone.
        """
        create = False
        while True:
            with self._database.connect() as connection:
                # The epoch first: whoever claims another one after that makes Redis refuse this one.
                epoch, _ = postgres.shard_state(connection, shard)
                parents = _alive(connection, numbers)
            complete, end = self._log.raise_all(
                shard,
                epoch,
                {
                    parent: max(number, parents[parent].highest)
                    for parent, number in numbers.items()
                },
                create=create,
            )
            self._settler.through(shard, end)
            if complete:
                return epoch
            # A counter that is missing may be made now: what it gave was in the log, and is stored.
            create = True


def _alive(connection: Connection, parents: Collection[Parent]) -> Mapping[Parent, AsStored]:
    """The rows of parents that all take children; Overtaken if one does not any more."""
    found = postgres.parents_as_stored(connection, parents)
    if len(found) < len(parents) or any(row.removed for row in found.values()):
        raise Overtaken
    return found
