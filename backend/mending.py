"""Mending: the second step of `reconcile`, what repairs each kind of finding. Every part is idempotent.

A parent is mended as a whole, in the way of an import: its counter is raised to the highest number that
anybody knows to be given; what is in the log is stored; then, under the shard's lock and in the same
life of Redis, every number without a row gets one that says `lost`, and what is gone is counted anew. So
no counter goes back, no number is given twice, and the live count is right again.
"""

from collections.abc import Callable, Mapping, Sequence

from backend import sql
from backend.errors import Unavailable
from backend.findings import target
from backend.life import Lives
from backend.log import LifeLost, Log
from backend.model import Parent, shard_of
from backend.settling import Settler
from backend.sql import Database, tallies
from backend.sql.tallies import Orphan

ATTEMPTS = 5
LOCK_SECONDS = 4.0  # each attempt; together longer than a stuck drain is left alone
CLOSED_AT_ONCE = 1_000


class Mender:
    """Repairs what was found. Thread-safe.

    Raises Unavailable where a lock is held for too long, EngineDown when an engine is away: what was
    repaired until then stays so.
    """

    def __init__(self, log: Log, database: Database, lives: Lives, settler: Settler) -> None:
        self._log = log
        self._database = database
        self._lives = lives
        self._settler = settler

    def mend_parent(self, parent: Parent) -> None:
        """Have a live parent's counter and its children's rows agree."""
        shard = shard_of(parent.token, self._database.installation.shards)

        def mend(epoch: int) -> bool:
            through = self._raise(shard, epoch, parent)
            return through is None or self._fill(shard, epoch, parent, through)

        self._in_one_life(shard, mend)

    def _raise(self, shard: int, epoch: int, parent: Parent) -> int | None:
        """Have the counter at the highest number given, and all that it gave before stored.

        Returns that number; None if the parent is gone.
        """
        with self._database.connect() as connection:
            tally = tallies.tallies(connection, [parent]).get(parent)
        if tally is None:
            return None
        counters, _ = self._log.look(shard, [parent])
        through = target(tally, counters[0].issued or 0)
        for create in (False, True):  # one that is missing is made only once its log is stored
            there, end = self._log.raise_all(shard, epoch, {parent: through}, create=create)
            self._settler.through(shard, end)
            if there:
                break
        return through

    def _fill(self, shard: int, epoch: int, parent: Parent, through: int) -> bool:
        """Store what is lost, and count; False, changing nothing, where others are at work."""
        with self._database.begin() as tx:
            locked = sql.lock_shard(tx, shard, wait_seconds=LOCK_SECONDS)
            if locked is not None and locked.epoch == epoch and tallies.keep_imports_out(tx, shard):
                sql.name_transaction(tx, f"instachat drain {shard}")  # stuck, it ends like a drain
                if parent in tallies.tallies(tx, [parent]):
                    lost = tallies.fill(tx, parent, through)
                    tallies.recount(tx, parent)
                    if parent.chat is None:
                        self._close(shard, epoch, [Parent(parent.token, n) for n in lost])
                return True
        if locked is None:
            self._settler.unblock(shard)
        return False

    def discard(self, shard: int, found: Mapping[Parent, int]) -> None:
        """Remove counters whose parents do not exist, if they still say what was found."""

        def discard(epoch: int) -> bool:
            self._log.discard(shard, epoch, found)
            return True

        self._in_one_life(shard, discard)

    def close(self, shard: int, removed: Sequence[Parent]) -> None:
        """Close the counters of parents that are removed."""

        def close(epoch: int) -> bool:
            self._close(shard, epoch, removed)
            return True

        self._in_one_life(shard, close)

    def bury(self, orphans: Sequence[Orphan]) -> None:
        """Make dead letters of messages without a chat."""
        with self._database.begin() as tx:
            for orphan in orphans:
                tallies.bury_orphan(tx, orphan)

    def _close(self, shard: int, epoch: int, gone: Sequence[Parent]) -> None:
        for start in range(0, len(gone), CLOSED_AT_ONCE):
            batch = gone[start : start + CLOSED_AT_ONCE]
            self._log.seal(shard, epoch, dict.fromkeys(batch, True))

    def _in_one_life(self, shard: int, mend: Callable[[int], bool]) -> None:
        """Run a repair with the shard's epoch until it is done, claiming new lives in between."""
        for _ in range(ATTEMPTS):
            with self._database.connect() as connection:
                epoch, _ = sql.shard_state(connection, shard)
            try:
                if mend(epoch):
                    return
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
        raise Unavailable(
            f"shard {shard} is locked for too long, or Redis changes its life again and again",
            "see `instachat status`, then try again",
        )
