"""The part of the log that is stored, and kept: so that SQL is filled again if it goes back in time.

A standby that was promoted while it lagged, or a restored dump, has forgotten what was stored last. Its
cursor went back with it, so a drain finds those entries behind the cursor, and stores them again.
"""

import math
import time
from collections.abc import Collection
from contextlib import suppress

from backend.domain.errors import NodeDown
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.shards import DrainedShard
from backend.storage.redis.log import Log
from backend.storage.redis.types import DrainedLog, LogEnd, LogSize

TRIM_INTERVAL_SECONDS = 1.0
# Of Redis's memory. Accepting is refused above 0.85 of its limit: kept entries must not be the reason.
MAX_USED_SHARE = 0.75


class KeptLog:
    """Keeps stored entries for a time, and within a share of Redis's memory."""

    def __init__(self, log: Log, database: Database, memory_share: float) -> None:
        """`memory_share` is the largest part of Redis's memory that kept entries may take: 0.2 is a fifth."""
        self._log = log
        self._database = database
        self._memory_share = memory_share
        self._next_trim = float("-inf")  # on the monotonic clock

    def trim_all(self) -> None:
        """Trim the logs of all shards, at most once a second: also those that nothing is accepted for.

        If kept entries take more than their share of the memory, or Redis is short of it, the oldest ones are
        deleted, of each shard the same part. Entries that SQL has not passed always stay.
        """
        if time.monotonic() < self._next_trim:
            return
        self._next_trim = time.monotonic() + TRIM_INTERVAL_SECONDS
        self._trim()

    def delete_all(self) -> None:
        """Delete every stored entry, however long it is to be kept."""
        self._trim(part=0.0)

    def _trim(self, part: float | None = None) -> None:
        """Trim the logs; keep that part of the stored entries, or as much as memory allows."""
        all_shards = self._database.installation.all_shards
        sizes, ends = self._log.try_sizes(all_shards), self._log.try_ends(all_shards)
        # Of a cluster, the logs whose nodes do not answer are left for later.
        logs = {
            shard: (size, end)
            for shard, size in sizes.items()
            if isinstance(size, LogSize) and isinstance(end := ends[shard], LogEnd) and size.entries
        }
        if not logs:
            return
        part = self._part_to_keep(logs.values()) if part is None else part
        with self._database.connect() as connection:
            drained = shards.drained_shards(connection)
        for shard, (size, end) in logs.items():
            if size.entries > end.waiting:
                with suppress(NodeDown):
                    self._trim_shard(shard, drained[shard], size, end, part)

    def _trim_shard(
        self, shard: int, drained: DrainedShard, size: LogSize, end: LogEnd, part: float
    ) -> None:
        kept = size.entries - end.waiting
        # Only a drain may note that more is stored: a Redis that came back has entries that no drain has
        # seen, although SQL's cursor, which is of a later epoch, has passed them.
        through = min(end.stored, drained.cursor)
        self._log.trim(
            shard,
            drained.epoch,
            DrainedLog(through, drained.numbers),
            max_entries=None if part >= 1 else end.waiting + math.floor(kept * part),
            marks=drained.exact and through == drained.cursor,
        )

    def _part_to_keep(self, logs: Collection[tuple[LogSize, LogEnd]]) -> float:
        """Which part of the kept entries may stay: 1 is all."""
        kept_bytes = sum(size.bytes * (1 - end.waiting / size.entries) for size, end in logs)
        if kept_bytes <= 0:
            return 1
        nodes = self._log.node_memory()
        excess = kept_bytes - sum(node.limit for node in nodes) * self._memory_share
        for node in nodes:
            excess = max(excess, node.used - node.limit * MAX_USED_SHARE)
        return min(max(1 - excess / kept_bytes, 0), 1)
