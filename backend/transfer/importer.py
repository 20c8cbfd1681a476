"""Import: writes the lines of an export straight to SQL, so that accept never issues their numbers again.

For each chunk of lines:

1. **Compare** it with what is stored: lines that are stored already with the same content are skipped.
   Nothing is written from the first fault on.
2. **Write** the new lines by `ingest.direct_write`: accept does not issue the chunk's numbers any more.

If a unique index, or a parent that is removed, shows that another process wrote between 1 and 2, the
transaction is rolled back and the chunk compared again.

Applications are written before chats, chats before messages, each kind in its own transaction: a counter is
raised or created only for a parent that SQL knows, or accept could take messages for a chat that is never
stored. An import that is killed leaves whole transactions behind, and perhaps counters that are too high,
which does no harm; importing the same lines again skips what is stored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.domain.errors import Unavailable
from backend.domain.events import to_micros
from backend.domain.folding import fold
from backend.domain.model import Parent, shard_of
from backend.ingest.barrier import Barrier
from backend.ingest.direct_write import DirectWriter, WriteConflict
from backend.storage.postgres import imports, outbox
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log
from backend.transfer.diff import (
    InvalidLine,
    LineFault,
    NumberedLine,
    SeenLines,
    compare,
    parse_chunk,
)
from backend.transfer.format import ApplicationLine, ChatLine, LineChunk, MessageLine, TransferLine

ATTEMPTS = 5


@dataclass(slots=True)
class ImportCounts:
    """What was stored, or in a dry run would be stored; tombstones count like everything else."""

    applications: int = 0
    chats: int = 0
    messages: int = 0
    skipped: int = 0  # lines whose content was stored already

    @property
    def stored(self) -> int:
        """All three together."""
        return self.applications + self.chats + self.messages


class Importer:
    """Begins imports and dry runs of them. Thread-safe."""

    def __init__(
        self, log: Log, database: Database, barrier: Barrier, direct_writer: DirectWriter
    ) -> None:
        self._log = log
        self._database = database
        self._barrier = barrier
        self._direct_writer = direct_writer

    def begin(self) -> "Import":
        """A new import."""
        return Import(self._log, self._database, self._barrier, self._direct_writer)

    def dry_run(self) -> "DryRun":
        """A dry run of an import."""
        return DryRun(self._database)


class DryRun:
    """An import that writes nothing, neither to SQL nor to Redis. Not thread-safe.

    It does not wait for what is accepted and not stored yet. It keeps a digest of every line, since none is
    stored for later lines to be compared with: eight bytes each for consecutive numbers.
    """

    def __init__(self, database: Database) -> None:
        self.counts = ImportCounts()
        self._database = database
        self._seen = SeenLines()

    def process(self, chunk: LineChunk) -> list[LineFault]:
        """Return all faults of a chunk. Raises EngineDown when PostgreSQL is away."""
        lines = parse_chunk(chunk, collect_all=True)
        new, faults = compare(self._database, lines, self._seen)
        for _, line in new:
            if isinstance(line, MessageLine):
                self.counts.messages += 1
            elif isinstance(line, ChatLine):
                self.counts.chats += 1
            else:
                self.counts.applications += 1
        self.counts.skipped += len(lines) - len(new) - len(faults)
        return faults


class Import:
    """One import, chunk after chunk, in memory that does not grow. Not thread-safe."""

    def __init__(
        self, log: Log, database: Database, barrier: Barrier, direct_writer: DirectWriter
    ) -> None:
        self.counts = ImportCounts()
        self._log = log
        self._database = database
        self._barrier = barrier
        self._direct_writer = direct_writer
        self._drained_shards: set[int] = set()

    def process(self, chunk: LineChunk) -> list[LineFault]:
        """Store a chunk, or the lines before its first fault, which is returned.

        Raises Unavailable if what was accepted is not stored in time, a lock is held for too long, or other
        processes repeatedly write the same; EngineDown when an engine is away. `counts` is right even then,
        and the same chunk can be processed again.
        """
        lines = parse_chunk(chunk, collect_all=False)
        all_shards = self._database.installation.shards
        shards = {
            shard_of(line.token, all_shards)
            for _, line in lines
            if not isinstance(line, InvalidLine)
        }
        # Over all attempts: one that conflicts has raised counters, and the next one stores those numbers.
        with self._direct_writer.reserving(shards):
            return self._store_new(chunk, lines, shards)

    def _store_new(
        self,
        chunk: LineChunk,
        lines: Sequence[NumberedLine],
        shards: set[int],
    ) -> list[LineFault]:
        """As `process`, for the parsed lines and their shards."""
        for _ in range(ATTEMPTS):
            before = self.counts.stored
            self._wait_drained(shards)
            new, faults = compare(self._database, lines, SeenLines())
            end = faults[0].line if faults else chunk.first + len(lines)
            try:
                self._store([line for number, line in new if number < end])
            except WriteConflict:
                continue
            self.counts.skipped += end - chunk.first - (self.counts.stored - before)
            return faults[:1]
        raise Unavailable("other processes repeatedly write the same", "try again in a moment")

    def _wait_drained(self, shards: set[int]) -> None:
        """Once a shard: wait until what was accepted before the import is stored, for comparing."""
        for shard in shards - self._drained_shards:
            self._barrier.wait_drained(shard)
            self._drained_shards.add(shard)

    def _store(self, lines: Sequence[TransferLine]) -> None:
        """Store new lines, shard after shard; WriteConflict if one of them is not new any more."""
        shards = self._database.installation.shards
        by_shard: dict[int, list[TransferLine]] = {}
        for line in lines:
            by_shard.setdefault(shard_of(line.token, shards), []).append(line)
        for shard, mine in sorted(by_shard.items()):
            if applications := [line for line in mine if isinstance(line, ApplicationLine)]:
                self._store_applications(shard, applications)
            if chats := [line for line in mine if isinstance(line, ChatLine)]:
                self._store_chats(shard, chats)
            if messages := [line for line in mine if isinstance(line, MessageLine)]:
                self._store_messages(shard, messages)

    def _store_applications(self, shard: int, lines: Sequence[ApplicationLine]) -> None:
        def store(tx: Connection, locked: LockedShard, _: Mapping[Parent, int]) -> None:
            imports.insert_imported_applications(tx, [line.to_row() for line in lines])
            removed = {Parent(line.token): line.removed for line in lines}
            self._log.set_closed(shard, locked.epoch, removed)

        self._direct_writer.write(shard, {}, store)
        self.counts.applications += len(lines)

    def _store_chats(self, shard: int, lines: Sequence[ChatLine]) -> None:
        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            imports.insert_imported_chats(tx, [line.to_row(ids[line.parent]) for line in lines])
            removed = {Parent(line.token, line.number): line.removed for line in lines}
            self._log.set_closed(shard, locked.epoch, removed)

        self._direct_writer.write(shard, _highest(lines), store)
        self.counts.chats += len(lines)

    def _store_messages(self, shard: int, lines: Sequence[MessageLine]) -> None:
        folded_lines = [(line, fold(line.text or "")) for line in lines]  # before the lock

        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            rows = [line.to_row(ids[line.parent], folded) for line, folded in folded_lines]
            imports.copy_imported_messages(tx, rows)
            if locked.publishing:
                outbox.add_to_outbox(
                    tx, [(row.chat_id, row.number, to_micros(row.updated_at)) for row in rows]
                )

        self._direct_writer.write(shard, _highest(lines), store)
        self.counts.messages += len(lines)


def _highest(lines: Iterable[ChatLine | MessageLine]) -> dict[Parent, int]:
    """The highest number under each parent."""
    highest: dict[Parent, int] = {}
    for line in lines:
        parent = line.parent
        highest[parent] = max(line.number, highest.get(parent, 0))
    return highest
