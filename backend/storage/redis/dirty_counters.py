"""The dirty set of a shard: parents whose counters changed since SQL's counts were written."""

from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import RedisClient, raise_first_error, text
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

    def count_dirty(self, shards: Sequence[int]) -> int:
        """How many parents of these shards are dirty."""
        return sum(raise_first_error(self._count_each_shard("ZCARD", "dirty", shards)))
