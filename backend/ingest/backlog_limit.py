"""The part of Redis's memory that a shard's log may take before it is stored.

The log's limit in entries does not bound its bytes, and Redis's memory is shared: without a bound of its own,
one application whose messages nobody stores would have Redis refuse those of all others.
"""

from contextlib import suppress

from backend.domain.errors import EngineDown
from backend.storage.postgres.database import Database
from backend.storage.redis.errors import CommandRefused
from backend.storage.redis.log import Log
from backend.storage.redis.types import LogEnd, LogSize

MAX_SHARD_SHARE = 0.25  # of the memory of a Redis, or of a node of a cluster


class BacklogLimit:
    """Which shards have too much that is not stored yet. Thread-safe."""

    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database
        self.full: frozenset[int] = frozenset()
        """At the last `refresh`. Nothing is accepted for these shards, so that the others find room."""

    def refresh(self) -> None:
        """Look at the logs of all shards. While Redis does not answer, or refuses to say, nothing changes."""
        shards = self._database.installation.all_shards
        with suppress(EngineDown, CommandRefused):
            limits = [node.limit for node in self._log.node_memory() if node.limit]
            sizes, ends = self._log.try_sizes(shards), self._log.try_ends(shards)
            most = min(limits, default=0) * MAX_SHARD_SHARE
            self.full = frozenset(
                shard
                for shard, size in sizes.items()
                if most and _waiting_bytes(size, ends[shard]) > most
            )


def _waiting_bytes(size: object, end: object) -> float:
    """About how much memory the entries take that are not stored; 0 if a node does not say."""
    if not (isinstance(size, LogSize) and isinstance(end, LogEnd) and size.entries):
        return 0
    return size.bytes * min(end.waiting / size.entries, 1)
