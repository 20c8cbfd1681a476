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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.domain.errors import Unavailable
from backend.domain.events import to_micros
from backend.domain.folding import fold
from backend.domain.model import Parent
from backend.ingest.barrier import Barrier
from backend.ingest.batch import DEFAULT_LIMITS
from backend.ingest.direct_write import DirectWriter, WriteConflict
from backend.ingest.routing import Routing
from backend.ingest.tokens import Tokens
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
from backend.transfer.left_out import LeftOut, LeftOutFinder

ATTEMPTS = 5
MAX_FOLDED_LENGTH = DEFAULT_LIMITS.length
"""Of the texts of one transaction, in code points: the shard's other applications wait for it.

A transaction has at least one text.
"""
OnLeftOut = Callable[[LeftOut], object]


def _ignore(_: LeftOut) -> None:
    pass


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
        self,
        log: Log,
        database: Database,
        routing: Routing,
        barrier: Barrier,
        direct_writer: DirectWriter,
        tokens: Tokens,
    ) -> None:
        self._tokens = tokens
        self._log = log
        self._database = database
        self._routing = routing
        self._barrier = barrier
        self._direct_writer = direct_writer

    def begin(self, on_left_out: OnLeftOut = _ignore) -> "Import":
        """A new import; `on_left_out` is told of the numbers that lines leave out, before they are stored."""
        return Import(
            self._log,
            self._database,
            self._routing,
            self._barrier,
            self._direct_writer,
            self._tokens,
            on_left_out,
        )

    def dry_run(self, on_left_out: OnLeftOut = _ignore) -> "DryRun":
        """A dry run of an import."""
        return DryRun(self._database, self._tokens, on_left_out)


class DryRun:
    """An import that writes nothing, neither to SQL nor to Redis. Not thread-safe.

    It does not wait for what is accepted and not stored yet. It keeps a digest of every line, since none is
    stored for later lines to be compared with: eight bytes each for consecutive numbers.
    """

    def __init__(self, database: Database, tokens: Tokens, on_left_out: OnLeftOut) -> None:
        self.counts = ImportCounts()
        self._database = database
        self._tokens = tokens
        self._on_left_out = on_left_out
        self._seen = SeenLines()
        self._left_out = LeftOutFinder()

    def process(self, chunk: LineChunk) -> list[LineFault]:
        """Return all faults of a chunk. Raises EngineDown when PostgreSQL is away."""
        lines = _with_original_tokens(parse_chunk(chunk, collect_all=True), self._tokens)
        new, faults, highest = compare(self._database, lines, self._seen)
        for left_out in self._left_out.find(new, highest):
            self._on_left_out(left_out)
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
        self,
        log: Log,
        database: Database,
        routing: Routing,
        barrier: Barrier,
        direct_writer: DirectWriter,
        tokens: Tokens,
        on_left_out: OnLeftOut,
    ) -> None:
        self._tokens = tokens
        self.counts = ImportCounts()
        self._log = log
        self._database = database
        self._routing = routing
        self._barrier = barrier
        self._direct_writer = direct_writer
        self._on_left_out = on_left_out
        self._drained_shards: set[int] = set()

    def process(self, chunk: LineChunk) -> list[LineFault]:
        """Store a chunk, or the lines before its first fault, which is returned.

        Raises Unavailable if what was accepted is not stored in time, a lock is held for too long, or other
        processes repeatedly write the same; EngineDown when an engine is away. `counts` is right even then,
        and the same chunk can be processed again.
        """
        lines = _with_original_tokens(parse_chunk(chunk, collect_all=False), self._tokens)
        shards = set(
            self._locate(
                line.token for _, line in lines if not isinstance(line, InvalidLine)
            ).values()
        )
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
        before = self.counts.stored  # an attempt that conflicts may have stored some
        for attempt in range(ATTEMPTS):
            self._wait_drained(shards)
            new, faults, highest = compare(self._database, lines, SeenLines())
            end = faults[0].line if faults else chunk.first + len(lines)
            new = [(number, line) for number, line in new if number < end]
            for left_out in () if attempt else LeftOutFinder().find(new, highest):
                self._on_left_out(left_out)
            try:
                self._store([line for _, line in new])
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
        shard_of = self._locate(line.token for line in lines)
        by_shard: dict[int, list[TransferLine]] = {}
        for line in lines:
            by_shard.setdefault(shard_of[line.token], []).append(line)
        for shard, mine in sorted(by_shard.items()):
            if applications := [line for line in mine if isinstance(line, ApplicationLine)]:
                self._store_applications(shard, applications)
            if chats := [line for line in mine if isinstance(line, ChatLine)]:
                self._store_chats(shard, chats)
            if messages := [line for line in mine if isinstance(line, MessageLine)]:
                self._store_messages(shard, messages)

    def _locate(self, tokens: Iterable[str]) -> dict[str, int]:
        with self._database.connect() as connection:
            return self._routing.locate(connection, tokens)

    def _store_applications(self, shard: int, lines: Sequence[ApplicationLine]) -> None:
        def store(tx: Connection, locked: LockedShard, _: Mapping[Parent, int]) -> None:
            imports.insert_imported_applications(tx, [line.to_row() for line in lines], shard)
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
        for part in _fold_in_parts(lines):  # before the lock
            self._store_part(shard, part)

    def _store_part(self, shard: int, part: Sequence[tuple[MessageLine, str]]) -> None:
        """Store messages with their folded texts in one transaction."""

        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            rows = [line.to_row(ids[line.parent], folded) for line, folded in part]
            imports.copy_imported_messages(tx, rows)
            if locked.publishing:
                outbox.add_to_outbox(
                    tx, [(row.chat_id, row.number, to_micros(row.updated_at)) for row in rows]
                )

        self._direct_writer.write(shard, _highest(line for line, _ in part), store)
        self.counts.messages += len(part)


def _fold_in_parts(lines: Iterable[MessageLine]) -> Iterator[list[tuple[MessageLine, str]]]:
    """The lines with their folded texts, of which each part has MAX_FOLDED_LENGTH or little more."""
    part: list[tuple[MessageLine, str]] = []
    length = 0
    for line in lines:
        part.append((line, fold(line.text or "")))
        length += len(part[-1][1])
        if length >= MAX_FOLDED_LENGTH:
            yield part
            part, length = [], 0
    if part:
        yield part


def _with_original_tokens(lines: list[NumberedLine], tokens: Tokens) -> list[NumberedLine]:
    """The lines with the tokens that name their applications inside.

    An export from before a token was replaced has the former one, and is of the same application.
    """
    tokens.follow()
    if tokens.is_trivial:
        return lines
    return [
        (
            number,
            line if isinstance(line, InvalidLine) else line.of(tokens.original_of_any(line.token)),
        )
        for number, line in lines
    ]


def _highest(lines: Iterable[ChatLine | MessageLine]) -> dict[Parent, int]:
    """The highest number under each parent."""
    highest: dict[Parent, int] = {}
    for line in lines:
        parent = line.parent
        highest[parent] = max(line.number, highest.get(parent, 0))
    return highest
