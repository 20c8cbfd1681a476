"""The stream of accepted events: read in its order, trimmed once it is stored."""

from backend.domain.model import EntryId
from backend.storage.redis.client import Calls, text
from backend.storage.redis.types import LifeLost, Page


class StreamCalls(Calls):
    """Reading and trimming a shard's log."""

    def read(
        self,
        shard: int,
        epoch: int,
        installation: str,
        after: EntryId,
        *,
        most_entries: int,
        most_bytes: int,
    ) -> Page:
        """The entries after a place, in order. LifeLost if this log is not that epoch's."""
        reply = self._call(
            "read",
            [self.key(shard, name) for name in ("life", "log", "bell")],
            [epoch, installation, f"{after}", most_entries, most_bytes],
        )
        if reply[0] != b"ok":
            raise LifeLost(text(reply[1]))
        _, sequence, complete, found = reply
        entries = list(zip(found[::2], found[1::2], strict=True))
        return Page(entries, EntryId(epoch, int(sequence)), bool(complete))

    def trim(self, shard: int, epoch: int, through: EntryId) -> int:
        """Drop the entries up to and including one; returns how many are left behind it.

        In another life it drops nothing and returns 0.
        """
        keep = EntryId(through.epoch, through.sequence + 1)
        return int(
            self._call(
                "trim", [self.key(shard, "life"), self.key(shard, "log")], [epoch, f"{keep}"]
            )
        )

    def lengths(self, shards: int) -> list[int]:
        """How many entries each shard's log holds: what is accepted and not stored yet.

        Something foreign in a log's place counts as one: the drain of that shard will name it.
        """
        return self._each_shard("xlen", "log", shards)
