"""Repairs what the checks found. Every repair is idempotent.

A parent is repaired as a whole, by a direct write: its counter is raised to the highest number known to have
been issued; then every number up to that one without a row is stored as lost (a long gap by one row), and
the numbers that hold nothing are counted again. So no counter decreases, no number is issued twice, and the
live count is correct.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias, assert_never

from backend.domain.model import Parent
from backend.ingest.direct_write import DirectWriter, WriteConflict
from backend.ingest.epochs import Epochs
from backend.ingest.routing import Routing
from backend.search.publish import Publisher
from backend.storage.postgres import gaps, message_states, orphans
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.gaps import Gap
from backend.storage.postgres.orphans import Orphan
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log
from backend.storage.search_index import DocumentVersion

CLOSE_BATCH_SIZE = 1_000


class RepairParent(NamedTuple):
    """Make a live parent's counter and its children's rows agree.

    `through` is the highest number known to have been issued, read while no direct write had reserved
    numbers (see `locks.reserve_numbers`).
    """

    parent: Parent
    through: int


class Republish(NamedTuple):
    """Publish messages again, each at a version above the given one."""

    versions: Sequence[DocumentVersion]


class DeadLetterOrphans(NamedTuple):
    """Move messages whose chat does not exist to dead letters."""

    rows: Sequence[Orphan]


class CloseCounters(NamedTuple):
    """Close the counters of removed parents."""

    shard: int
    parents: Sequence[Parent]


class DiscardCounters(NamedTuple):
    """Remove counters whose parents do not exist, if they still have the value that was found."""

    shard: int
    issued: Mapping[Parent, int]


Repair: TypeAlias = RepairParent | Republish | DeadLetterOrphans | CloseCounters | DiscardCounters


class Repairer:
    """Applies repairs. Thread-safe."""

    def __init__(
        self,
        log: Log,
        database: Database,
        epochs: Epochs,
        routing: Routing,
        direct_writer: DirectWriter,
        publisher: Publisher | None,
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._routing = routing
        self._direct_writer = direct_writer
        self._publisher = publisher

    def apply(self, repair: Repair) -> None:
        """Apply one repair.

        Raises Unavailable if a lock is not released in time, EngineDown when an engine is away; repairs
        applied before stay.
        """
        match repair:
            case RepairParent(parent, through):
                self._repair_parent(parent, through)
            case Republish(versions):
                self._republish(versions)
            case DeadLetterOrphans(rows):
                self._dead_letter_orphans(rows)
            case CloseCounters(shard, parents):
                self._epochs.retrying(
                    shard, lambda: self._close(shard, self._epochs.read(shard), parents)
                )
            case DiscardCounters(shard, issued):
                self._epochs.retrying(
                    shard, lambda: self._log.discard(shard, self._epochs.read(shard), issued)
                )
            case _:
                assert_never(repair)

    def _repair_parent(self, parent: Parent, through: int) -> None:
        def store(tx: Connection, locked: LockedShard, _: Mapping[Parent, int]) -> None:
            lost = gaps.fill_gaps(tx, parent, through)
            gaps.recount_removed(tx, parent)
            if parent.chat is None:  # the counter of a lost chat must not accept messages
                shard = self._routing.locate(tx, [parent.token])[parent.token]
                self._close(shard, locked.epoch, self._lost_chats(shard, parent.token, lost))

        with suppress(WriteConflict):  # the parent was removed since
            self._direct_writer.write_for(parent.token, {parent: through}, store)

    def _lost_chats(self, shard: int, token: str, lost: Sequence[Gap]) -> list[Parent]:
        """The chats in these gaps; of a long one those that have a counter."""
        long = [gap for gap in lost if gap.rows < gap.size]
        chats = [
            Parent(token, number)
            for gap in lost
            if gap.rows == gap.size
            for number in range(gap.first, gap.last + 1)
        ]
        if long:
            chats += [
                parent
                for parent in set(self._log.scan_parents([shard], token))
                if any(gap.first <= (parent.chat or 0) <= gap.last for gap in long)
            ]
        return chats

    def _republish(self, versions: Sequence[DocumentVersion]) -> None:
        with self._database.begin() as tx:
            message_states.republish(tx, versions)
        if self._publisher is not None:  # else the next publisher does it
            self._publisher.publish()

    def _dead_letter_orphans(self, rows: Sequence[Orphan]) -> None:
        with self._database.begin() as tx:
            for orphan in rows:
                orphans.dead_letter_orphan(tx, orphan)

    def _close(self, shard: int, epoch: int, parents: Sequence[Parent]) -> None:
        for start in range(0, len(parents), CLOSE_BATCH_SIZE):
            batch = parents[start : start + CLOSE_BATCH_SIZE]
            self._log.set_closed(shard, epoch, dict.fromkeys(batch, True))
