"""The stream of accepted events: read in its order, trimmed once it is stored."""

from typing import Any

from backend.domain.model import EntryId
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.types import LogPage, StaleEpoch


class StreamCalls(RedisClient):
    """Reading and trimming a shard's log."""

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
        """The entries after a place, in order. StaleEpoch if this log is not that epoch's."""
        reply = self._call(
            "read",
            [self.key(shard, name) for name in ("epoch", "log", "wake-up")],
            [epoch, installation, f"{after}", max_entries, max_bytes],
        )
        if reply[0] != b"ok":
            raise StaleEpoch(text(reply[1]))
        _, sequence, complete, found = reply
        entries = list(zip(found[::2], found[1::2], strict=True))
        return LogPage(entries, EntryId(epoch, int(sequence)), bool(complete))

    def oldest_event(self, shard: int) -> bytes | None:
        """The packed event of the log's first entry, None if the log is empty. Raises EngineDown."""
        with self.translate_errors():
            found: Any = self.redis.xrange(self.key(shard, "log"), count=1)
        for _, fields in found:
            return bytes(next(iter(fields.values())))
        return None

    def trim(self, shard: int, epoch: int, through: EntryId) -> int:
        """Drop the entries up to and including one; returns how many are left behind it.

        In another epoch it drops nothing and returns 0.
        """
        keep = EntryId(through.epoch, through.sequence + 1)
        return int(
            self._call(
                "trim", [self.key(shard, "epoch"), self.key(shard, "log")], [epoch, f"{keep}"]
            )
        )

    def lengths(self, shards: int) -> list[int]:
        """How many entries each shard's log holds: what is accepted and not stored yet.

        Something foreign in a log's place counts as one: the drain of that shard will name it.
        """
        return self._each_shard("xlen", "log", shards)
