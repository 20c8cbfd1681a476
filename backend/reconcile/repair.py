"""Mending: the second step of `reconcile`, what repairs each kind of finding. Every part is idempotent.

A parent is mended as a whole, past the log: its counter is raised to the highest number that anybody knows
to be given; then every number up to there without a row gets one that says `lost`, and what is gone is
counted anew. So no counter goes back, no number is given twice, and the live count is right again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Connection

from backend.domain.errors import Unavailable
from backend.domain.model import Parent, shard_of
from backend.ingest.direct_write import Overtaken, PastLog
from backend.ingest.epochs import Lives
from backend.storage import postgres
from backend.storage.postgres import Database, LockedShard, child_statistics
from backend.storage.postgres.child_statistics import Orphan
from backend.storage.redis.log import Log
from backend.storage.redis.types import LifeLost

ATTEMPTS = 5
CLOSED_AT_ONCE = 1_000


class Mender:
    """Repairs what was found. Thread-safe.

    Raises Unavailable where a lock is held for too long, EngineDown when an engine is away: what was
    repaired until then stays so.
    """

    def __init__(self, log: Log, database: Database, lives: Lives, past_log: PastLog) -> None:
        self._log = log
        self._database = database
        self._lives = lives
        self._past_log = past_log

    def mend_parent(self, parent: Parent, through: int) -> None:
        """Have a live parent's counter and its children's rows agree.

        `through` is the highest number that is known to be given, when nobody held any that was not
        stored (see `tallies.hold_numbers`).
        """

        def store(tx: Connection, locked: LockedShard, _: Mapping[Parent, int]) -> None:
            lost = child_statistics.fill(tx, parent, through)
            child_statistics.recount(tx, parent)
            if parent.chat is None:  # a chat that is lost may have a counter that takes messages
                self._close(shard, locked.epoch, [Parent(parent.token, n) for n in lost])

        shard = shard_of(parent.token, self._database.installation.shards)
        with suppress(Overtaken):  # it was removed meanwhile
            self._past_log.write(shard, {parent: through}, store)

    def discard(self, shard: int, found: Mapping[Parent, int]) -> None:
        """Remove counters whose parents do not exist, if they still say what was found."""
        self._in_one_life(shard, lambda epoch: self._log.discard(shard, epoch, found))

    def close(self, shard: int, removed: Sequence[Parent]) -> None:
        """Close the counters of parents that are removed."""
        self._in_one_life(shard, lambda epoch: self._close(shard, epoch, removed))

    def bury(self, orphans: Sequence[Orphan]) -> None:
        """Make dead letters of messages without a chat."""
        with self._database.begin() as tx:
            for orphan in orphans:
                child_statistics.bury_orphan(tx, orphan)

    def _close(self, shard: int, epoch: int, gone: Sequence[Parent]) -> None:
        for start in range(0, len(gone), CLOSED_AT_ONCE):
            batch = gone[start : start + CLOSED_AT_ONCE]
            self._log.seal(shard, epoch, dict.fromkeys(batch, True))

    def _in_one_life(self, shard: int, mend: Callable[[int], None]) -> None:
        """Run a repair with the shard's epoch until it is done, claiming new lives in between."""
        for _ in range(ATTEMPTS):
            with self._database.connect() as connection:
                epoch, _ = postgres.shard_state(connection, shard)
            try:
                return mend(epoch)
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
        raise Unavailable("Redis changes its life again and again", "see `instachat doctor`")
