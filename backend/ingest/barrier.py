"""Settling: waiting until what is accepted is stored, by draining, for those who read or write SQL itself."""

from backend.domain.errors import Unavailable
from backend.domain.model import EntryId
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.storage.redis.log import Log
from backend.storage.redis.types import StaleEpoch

MAX_ATTEMPTS = 5
BARRIER_TIMEOUT_SECONDS = 30.0  # a backlog of a million messages takes that long


class Barrier:
    """Waits for SQL to have passed a place of the log. Thread-safe."""

    def __init__(self, log: Log, epochs: Epochs, drainer: Drainer) -> None:
        self._log = log
        self._epochs = epochs
        self._drainer = drainer

    def wait_drained(self, shard: int) -> None:
        """Return once everything that was accepted in a shard before this call is decided in SQL.

        Raises Unavailable if that takes too long, EngineDown when an engine is away.
        """
        for _ in range(MAX_ATTEMPTS):
            try:
                _, end = self._log.read_issued(shard, [])
            except StaleEpoch as stale:
                self._epochs.begin_epoch(shard, stale.reason)
                continue
            self.wait_through(shard, end)
            return
        raise Unavailable("Redis changes its epoch again and again", "see `instachat doctor`")

    def end_stuck_drain(self, shard: int) -> None:
        """End a drain that holds the shard for too long, if there is one: any other drain does that."""
        self._drainer.drain(shard)

    def wait_through(self, shard: int, end: EntryId) -> None:
        """Return once SQL has passed an entry of the log; raises as `wait_drained` does."""
        if not self._drainer.drain_through(shard, end, BARRIER_TIMEOUT_SECONDS):
            raise Unavailable(
                f"what was accepted before is not stored within {BARRIER_TIMEOUT_SECONDS:g} s",
                "see `instachat status`: is PostgreSQL slow, or the backlog long? Then try again",
            )
