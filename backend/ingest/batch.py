"""The batch of a drain: entries of the log, decoded and folded, bounded in size and in time.

A character may fold to 18, so a page of the log says little about how long it takes to store: a drain takes
the first entries of it that its limits allow, and commits up to there.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from backend.domain.events import Event, MessagesCreated, unpack
from backend.domain.model import EntryId
from backend.storage.postgres import messages

MAX_HALVINGS = 12


class BatchLimits(NamedTuple):
    """Limits of one batch. It has at least one entry, whatever they are."""

    entries: int = 5_000
    bytes: int = 1024 * 1024
    """Of the log. Messages wait for those behind them in their batch."""
    length: int = 4_000_000
    """Of the log, in bytes, and of the folded texts, in code points: what is sent to PostgreSQL."""
    seconds: float = 0.25
    """For decoding and folding."""

    def halved(self, times: int) -> "BatchLimits":
        """These limits, halved so many times."""
        return BatchLimits(
            max(self.entries >> times, 1),
            max(self.bytes >> times, 1),
            max(self.length >> times, 1),
            self.seconds / 2**times,
        )


DEFAULT_LIMITS = BatchLimits()


class DecodedEntry(Struct, frozen=True, gc=False):  # made in a third of a named tuple's time
    """An entry of the log: its id, as Redis writes it, its packed event, and the event.

    `folded` are the folded texts of the messages that it creates; `length` is how much it is, as
    `BatchLimits.length` counts. An entry that is not an event has None, and `error` says why.
    """

    id: bytes
    packed: bytes
    event: Event | None
    folded: list[str]
    length: int
    error: str = ""

    @property
    def entry_id(self) -> EntryId:
        """Its id."""
        return EntryId.parse(self.id.decode())


class ShardLimits:
    """The limits of each shard's next batch. Thread-safe.

    A batch that failed may have been too large: another drain ended it, or PostgreSQL had no room for it. The
    next one has half of its limits, and each that is stored doubles them again.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._halvings: dict[int, int] = {}  # of shards whose limits are not the full ones

    def of(self, shard: int) -> BatchLimits:
        """The limits of a shard's next batch."""
        return self._limits.halved(self._halvings.get(shard, 0))

    def halve(self, shard: int) -> None:
        """A batch of the shard failed."""
        self._halvings[shard] = min(self._halvings.get(shard, 0) + 1, MAX_HALVINGS)

    def double(self, shard: int) -> None:
        """A batch of the shard is stored."""
        if halvings := self._halvings.pop(shard, 0):
            self._halvings[shard] = halvings - 1


def decode_entry(id_: bytes, packed: bytes) -> DecodedEntry:
    """Decode an entry, and fold its texts. Raises NewerLogFormat."""
    try:
        event = unpack(packed)
    except ValueError as error:
        return DecodedEntry(id_, packed, None, [], len(packed), str(error))
    folded: list[str] = []
    length = len(packed)
    if isinstance(event, MessagesCreated):
        folded = messages.fold_texts(event)
        for text in folded:
            length += len(text)
    return DecodedEntry(id_, packed, event, folded, length)


def decode_batch(
    entries: Iterable[tuple[bytes, bytes]], limits: BatchLimits = DEFAULT_LIMITS
) -> list[DecodedEntry]:
    """The first of these entries, as many as the limits allow; at least one, if there is any."""
    deadline = time.monotonic() + limits.seconds
    batch: list[DecodedEntry] = []
    length = 0
    for id_, packed in entries:
        entry = decode_entry(id_, packed)
        batch.append(entry)
        length += entry.length
        if length >= limits.length or len(batch) >= limits.entries or time.monotonic() >= deadline:
            break
    return batch
