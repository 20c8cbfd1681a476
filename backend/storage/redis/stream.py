"""The stream of accepted events: read in order, and trimmed once it is stored."""

from typing import Any

from backend.domain.model import EntryId
from backend.storage.redis.client import RedisClient
from backend.storage.redis.types import LogPage


class StreamCalls(RedisClient):
    """Reads and trims a shard's log."""

    def read(
        self,
        shard: int,
        epoch: int,
        installation: str,
        after: EntryId,
        *,
        max_entries: int,
        max_bytes: int,
    ) -> LogPage:
        """The entries after an entry, in order. Raises StaleEpoch if this log is not of that epoch."""
        _, sequence, complete, found = self._call_fenced(
            "read_log",
            shard,
            [self.key(shard, name) for name in ("epoch", "log")],
            [epoch, installation, f"{after}", max_entries, max_bytes],
        )
        entries = list(zip(found[::2], found[1::2], strict=True))
        return LogPage(entries, EntryId(epoch, int(sequence)), bool(complete))

    def oldest_event(self, shard: int) -> bytes | None:
        """The packed event of the log's first entry; None if the log is empty."""
        with self.translate_errors():
            found: Any = self.redis.xrange(self.key(shard, "log"), count=1)
        for _, fields in found:
            return bytes(next(iter(fields.values())))
        return None

    def trim(self, shard: int, epoch: int, through: EntryId) -> int:
        """Delete the entries up to and including one; returns how many are left, for the caller to drain.

        Entries that are accepted later wake a worker up again. In another epoch it deletes nothing and
        returns 0.
        """
        keep = EntryId(through.epoch, through.sequence + 1)
        keys = [self.key(shard, name) for name in ("epoch", "log", "wake-up")]
        return int(self._call("trim_log", keys, [epoch, f"{keep}"]))

    def lengths(self, shards: int) -> list[int]:
        """How many entries each shard's log holds: what is accepted and not stored yet.

        A value of another program in place of a log counts as one: draining that shard raises the error.
        """
        return self._count_each_shard("xlen", "log", shards)
