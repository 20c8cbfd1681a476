"""Settling: waiting until what is accepted is stored, by draining, for those who read or write SQL itself."""

from backend.domain.errors import Unavailable
from backend.domain.model import EntryId
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Lives
from backend.storage.redis.log import Log
from backend.storage.redis.types import LifeLost

ATTEMPTS = 5
SETTLE_SECONDS = 30.0  # a backlog of a million messages takes that long


class Settler:
    """Waits for SQL to have passed a place of the log. Thread-safe."""

    def __init__(self, log: Log, lives: Lives, drainer: Drainer) -> None:
        self._log = log
        self._lives = lives
        self._drainer = drainer

    def now(self, shard: int) -> None:
        """Return once everything that was accepted in a shard before this call is decided in SQL.

        Raises Unavailable if that takes too long, EngineDown when an engine is away.
        """
        for _ in range(ATTEMPTS):
            try:
                _, end = self._log.issued(shard, [])
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
                continue
            self.through(shard, end)
            return
        raise Unavailable("Redis changes its life again and again", "see `instachat doctor`")

    def unblock(self, shard: int) -> None:
        """End a drain that holds the shard for too long, if there is one: any other drain does that."""
        self._drainer.drain(shard)

    def through(self, shard: int, end: EntryId) -> None:
        """Return once SQL has passed an entry of the log; raises as `now` does."""
        if not self._drainer.settle(shard, end, SETTLE_SECONDS):
            raise Unavailable(
                f"what was accepted before is not stored within {SETTLE_SECONDS:g} s",
                "see `instachat status`: is PostgreSQL slow, or the backlog long? Then try again",
            )
