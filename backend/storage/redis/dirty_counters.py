"""The dirty set of a shard: parents whose counters changed since SQL's counts were written."""

from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.errors import NodeDown
from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import RedisClient, scores, text
from backend.storage.redis.keys import member_name, parse_member_name
from backend.storage.redis.types import CounterReadings


class DirtyCounterCalls(RedisClient):
    """The calls of sync-counters."""

    def read_counters(self, shard: int, epoch: int, parents: Sequence[Parent]) -> CounterReadings:
        """Read counters for sync-counters. Raises StaleEpoch if Redis is not in `epoch`."""
        _, sequence, now, oldest, found = self._call_fenced(
            "read_counters",
            shard,
            [self.key(shard, "epoch"), self.key(shard, "dirty"), *self._counters(shard, parents)],
            [epoch],
        )
        return CounterReadings(
            [int(value) if value else None for value in found],
            EntryId(epoch, int(sequence)),
            int(now),
            int(float(oldest)) if oldest else None,
        )

    def dirty_page(self, shard: int, before: int, skip: int, limit: int) -> list[Parent]:
        """A page of a shard's parents that are dirty since before a time, the oldest first."""
        key = self.key(shard, "dirty")
        found: Any = self._execute(key, "ZRANGEBYSCORE", key, "-inf", before, "LIMIT", skip, limit)
        return [parse_member_name(text(name), shard) for name in found]

    def newest_change(self, shard: int) -> int:
        """Since when a shard's newest dirty parent is dirty, in microseconds by Redis's clock; 0 if none."""
        key = self.key(shard, "dirty")
        newest: Any = self._execute(key, "ZRANGE", key, -1, -1, "WITHSCORES")
        return int(max(scores(newest), default=0.0))

    def ack_synced(
        self, shard: int, epoch: int, read: Mapping[Parent, int | None], since: int
    ) -> int:
        """Remove parents from the dirty set whose counters still have the values that were read.

        Returns how many were removed. A parent whose counter changed meanwhile stays, dirty since the time
        `since`. In another epoch than `epoch` nothing is changed.
        """
        if not read:
            return 0
        keys = [self.key(shard, "epoch"), self.key(shard, "dirty"), *self._counters(shard, read)]
        arguments: list[str | int] = [epoch, since]
        for parent, issued in read.items():
            arguments += (member_name(parent), "" if issued is None else issued)
        return int(self._call("ack_synced", keys, arguments))

    def try_count_dirty(self, shards: Sequence[int]) -> dict[int, int | NodeDown]:
        """How many parents of each shard are dirty.

        NodeDown takes the place of the number of a shard whose node did not answer.
        """
        return dict(zip(shards, self._count_each_shard("ZCARD", "dirty", shards), strict=True))
