"""The stream of accepted events: read in order, and kept for a time after it is stored."""

from collections.abc import Sequence
from typing import Any

from backend.domain.errors import NodeDown
from backend.domain.model import EntryId
from backend.storage.redis.client import RedisClient, raise_first_error, text, unix_seconds
from backend.storage.redis.epoch_value import parse_epoch_value
from backend.storage.redis.types import DrainedLog, LogEnd, LogPage, LogSize

DEFAULT_RETENTION_SECONDS = 600.0  # without a setting
MARKS_PER_RETENTION = 600  # entries are deleted up to a mark: a second's at once, of ten minutes'


class StreamCalls(RedisClient):
    """Reads and trims a shard's log."""

    retention_seconds = DEFAULT_RETENTION_SECONDS

    def read(
        self,
        shard: int,
        epoch: int,
        installation: str,
        cursor: EntryId,
        *,
        max_entries: int,
        max_bytes: int,
    ) -> LogPage:
        """The entries after SQL's cursor, in order. Raises StaleEpoch if this log is not of that epoch.

        A cursor of an earlier epoch may have passed another Redis's entries, so the page may begin before it:
        after the last entry of this log that was stored.
        """
        _, sequence, complete, found, after, stored, trimmed, total = self._call_fenced(
            "read_log",
            shard,
            [self.key(shard, name) for name in ("epoch", "log")],
            [epoch, installation, cursor.epoch, cursor.sequence, max_entries, max_bytes],
        )
        return LogPage(
            entries=list(zip(found[::2], found[1::2], strict=True)),
            end=EntryId(epoch, int(sequence)),
            complete=bool(complete),
            after=EntryId.parse(text(after)),
            stored=EntryId.parse(text(stored)),
            trimmed=DrainedLog(EntryId.parse(text(trimmed)), int(total)),
        )

    def event_after(self, shard: int, entry: EntryId) -> bytes | None:
        """The packed event of the first entry of the log after that one; None if there is none."""
        return next((field for _, field in self.entries_after(shard, entry, 1)), None)

    def entries_after(self, shard: int, entry: EntryId, count: int) -> list[tuple[EntryId, bytes]]:
        """The first entries of the log after that one, stored or not, each with its packed event."""
        key = self.key(shard, "log")
        found: Any = self._execute(key, "XRANGE", key, f"({entry}", "+", "COUNT", count)
        return [
            (EntryId.parse(text(id_)), bytes(next(iter(fields.values())))) for id_, fields in found
        ]

    def stored_marks(self, shard: int) -> list[tuple[int, EntryId]]:
        """Up to which entry the log was stored at some moments, the oldest first, while entries are kept.

        A moment is in microseconds since 1970, by Redis's clock. There is at most one a second.
        """
        key = self.key(shard, "marks")
        found: Any = self._execute(key, "LRANGE", key, 0, -1)
        marks = (text(each).split() for each in found)
        return [
            (int(micros), EntryId(int(epoch), int(sequence)))
            for micros, epoch, sequence, _ in marks
        ]

    def read_clock(self) -> float:
        """Redis's time, in seconds since 1970; of a cluster, that of any node."""
        return unix_seconds(self._on_any_server("TIME"))

    def trim(
        self,
        shard: int,
        epoch: int,
        drained: DrainedLog,
        *,
        max_entries: int | None = None,
        marks: bool = True,
    ) -> int:
        """Note that the log is stored up to an entry, and delete what was stored long enough ago.

        Of the stored entries, the oldest are also deleted while the log holds more than `max_entries`. If the
        number of `drained` is not exact, pass no `marks`: the log is then deleted up to earlier ones only.

        Returns how many entries are not stored yet, for the caller to drain; entries that are accepted later
        wake a worker up again. In another epoch it changes nothing and returns 0.
        """
        keys = [self.key(shard, name) for name in ("epoch", "log", "marks")]
        micros = int(self.retention_seconds * 1_000_000)
        return int(
            self._call(
                "trim_log",
                keys,
                [
                    epoch,
                    drained.through.epoch,
                    drained.through.sequence,
                    drained.numbers,
                    micros,
                    micros // MARKS_PER_RETENTION if marks else "",
                    "" if max_entries is None else max_entries,
                ],
            )
        )

    def waiting(self, shards: Sequence[int]) -> int:
        """How many entries of these shards' logs are accepted and not stored yet.

        A value of another program in place of a log counts as one: draining that shard raises the error.
        Raises EngineDown if a shard can't be read.
        """
        return sum(end.waiting for end in self.ends(shards).values())

    def ends(self, shards: Sequence[int]) -> dict[int, LogEnd]:
        """The end of each shard's log, and how many of its entries are not stored yet.

        A log whose entries were deleted, or that another program has replaced, has at most as many as it
        holds. Raises EngineDown if a shard can't be read.
        """
        ends = raise_first_error(self.try_ends(shards).values())
        return dict(zip(shards, ends, strict=True))

    def try_ends(self, shards: Sequence[int]) -> dict[int, LogEnd | NodeDown]:
        """As `ends`; NodeDown takes the place of the end of a shard whose node did not answer."""
        epochs = self._each_shard("GET", "epoch", shards)
        lengths = self._each_shard("XLEN", "log", shards)
        return dict(zip(shards, map(_log_end, epochs, lengths), strict=True))

    def sizes(self, shards: Sequence[int]) -> dict[int, LogSize]:
        """How many entries each shard's log holds, and about how many bytes of memory they take.

        Raises EngineDown if a shard can't be read.
        """
        sizes = raise_first_error(self.try_sizes(shards).values())
        return dict(zip(shards, sizes, strict=True))

    def try_sizes(self, shards: Sequence[int]) -> dict[int, LogSize | NodeDown]:
        """As `sizes`; NodeDown takes the place of the size of a shard whose node did not answer."""
        lengths = self._count_each_shard("XLEN", "log", shards)
        used = self._each_shard("MEMORY USAGE", "log", shards)
        return {
            shard: length
            if isinstance(length, NodeDown)
            else LogSize(length, size if isinstance(size, int) else 0)
            for shard, length, size in zip(shards, lengths, used, strict=True)
        }


def _log_end(value: Any, length: Any) -> LogEnd | NodeDown:
    for answer in (value, length):
        if isinstance(answer, NodeDown):
            return answer
    if isinstance(value, Exception) or isinstance(length, Exception):
        return LogEnd(EntryId(0, 0), EntryId(0, 0), 1)
    epoch = parse_epoch_value(value)
    waiting = max(min(length, epoch.end.sequence - epoch.stored.sequence), 0)
    return LogEnd(epoch.end, epoch.stored, waiting)
