"""Import: lines of an export into SQL, past the accept path, so that no number is ever given twice.

A chunk of lines at a time:

1. **Compare** with what is stored: what is there already and equal is skipped. Nothing is written from
   the first fault on.
2. **Raise** the counters of the parents above all numbers of the chunk: from here on the accept script
   gives higher ones only.
3. **Settle**: wait until SQL has passed the log's end of that moment, so that what was given before is
   stored.
4. **Write** under the shard's lock, in one transaction, if the life of Redis is still the one in which
   the counters were raised. A claim of a new life needs that lock, and then reads these rows.

The unique indexes have the last word. Where they, or a parent that is gone, show that somebody was there
between 1 and 4, the transaction is given up and the chunk compared again.

Applications are written before chats, chats before messages, each in a round of its own: a counter is
raised or made only for a parent that SQL knows, or messages could be accepted for a chat that never
comes to be. A killed import leaves whole rounds behind, and perhaps counters that are too high, which
harms nobody; the same lines again skip what is there.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from backend import sql
from backend.comparing import BadLine, Fault, Seen, compare, read
from backend.errors import Unavailable
from backend.folding import fold
from backend.life import Lives
from backend.log import LifeLost, Log
from backend.model import Parent, shard_of
from backend.settling import Settler
from backend.sql import (
    AsStored,
    Database,
    ImportedApplication,
    ImportedChat,
    ImportedMessage,
    LockedShard,
    tallies,
)
from backend.transfer import ApplicationLine, ChatLine, Chunk, Line, MessageLine

ATTEMPTS = 5
LOCK_SECONDS = 4.0  # each attempt; together longer than a stuck drain is left alone

Store = Callable[[Connection, LockedShard, Mapping[Parent, int]], None]


@dataclass(slots=True)
class Counts:
    """What was stored, or in a rehearsal would be; what is removed counts like everything else."""

    applications: int = 0
    chats: int = 0
    messages: int = 0
    skipped: int = 0  # lines whose content was there already

    @property
    def stored(self) -> int:
        """All three together."""
        return self.applications + self.chats + self.messages


class _Overtaken(Exception):
    """Between comparing and writing somebody else wrote; nothing of this round is stored."""


class Importer:
    """Begins imports and rehearsals of them. Thread-safe."""

    def __init__(self, log: Log, database: Database, lives: Lives, settler: Settler) -> None:
        self._log = log
        self._database = database
        self._lives = lives
        self._settler = settler

    def begin(self) -> "Import":
        """A new import."""
        return Import(self._log, self._database, self._lives, self._settler)

    def rehearse(self) -> "Rehearsal":
        """A rehearsal of an import."""
        return Rehearsal(self._database)


class Rehearsal:
    """An import that writes nothing, neither to SQL nor to Redis. Of one thread.

    It does not wait for what is accepted and not stored yet. It remembers every line, as none is stored
    where a later one could be compared with it: in eight bytes each, when numbers follow each other.
    """

    def __init__(self, database: Database) -> None:
        self.counts = Counts()
        self._database = database
        self._seen = Seen()

    def take(self, chunk: Chunk) -> list[Fault]:
        """All faults of a chunk. Raises EngineDown when PostgreSQL is away."""
        lines = read(chunk, to_the_end=True)
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
    """One import, chunk after chunk, in memory that does not grow. Of one thread."""

    def __init__(self, log: Log, database: Database, lives: Lives, settler: Settler) -> None:
        self.counts = Counts()
        self._log = log
        self._database = database
        self._lives = lives
        self._settler = settler
        self._settled: set[int] = set()

    def take(self, chunk: Chunk) -> list[Fault]:
        """Store a chunk, or what comes before its first fault, which is returned.

        Raises Unavailable if what is accepted can't be stored in time, a lock is held for too long,
        or others write the same again and again; EngineDown when an engine is away. `counts` is
        right all the same, and the same chunk can be taken again.
        """
        lines = read(chunk, to_the_end=False)
        for _ in range(ATTEMPTS):
            before = self.counts.stored
            self._settle({line.token for _, line in lines if not isinstance(line, BadLine)})
            new, faults = compare(self._database, lines, Seen())
            end = faults[0].line if faults else chunk.first + len(lines)
            try:
                self._store([line for number, line in new if number < end])
            except _Overtaken:
                continue
            self.counts.skipped += end - chunk.first - (self.counts.stored - before)
            return faults[:1]
        raise Unavailable("others write the same again and again", "try again in a moment")

    def _settle(self, tokens: set[str]) -> None:
        """Once a shard: what was accepted before the import began is to be there for comparing."""
        shards = self._database.installation.shards
        for shard in {shard_of(token, shards) for token in tokens} - self._settled:
            self._settler.now(shard)
            self._settled.add(shard)

    def _store(self, lines: Sequence[Line]) -> None:
        """Store new lines, shard after shard; _Overtaken if they are not all new any more."""
        shards = self._database.installation.shards
        by_shard: dict[int, list[Line]] = {}
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
            sql.insert_imported_applications(tx, [ImportedApplication(*line) for line in lines])
            removed = {Parent(line.token): line.removed for line in lines}
            self._log.seal(shard, locked.epoch, removed)

        self._write(shard, {}, store)
        self.counts.applications += len(lines)

    def _store_chats(self, shard: int, lines: Sequence[ChatLine]) -> None:
        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            rows = [
                ImportedChat(ids[parent], number, gone, created_at, updated_at)
                for parent, number, gone, created_at, updated_at in lines
            ]
            sql.insert_imported_chats(tx, rows)
            removed = {Parent(line.token, line.number): line.removed for line in lines}
            self._log.seal(shard, locked.epoch, removed)

        self._write(shard, _highest(lines), store)
        self.counts.chats += len(lines)

    def _store_messages(self, shard: int, lines: Sequence[MessageLine]) -> None:
        folded_lines = [(line, fold(line.text or "")) for line in lines]  # before the lock

        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            rows = [
                ImportedMessage(ids[parent], number, text, folded, created_at, updated_at)
                for (parent, number, text, created_at, updated_at), folded in folded_lines
            ]
            sql.copy_imported_messages(tx, rows)
            if locked.publishing:
                sql.add_to_outbox(
                    tx, [(row.chat_id, row.number, sql.micros(row.updated_at)) for row in rows]
                )

        self._write(shard, _highest(lines), store)
        self.counts.messages += len(lines)

    def _write(self, shard: int, numbers: Mapping[Parent, int], store: Store) -> None:
        """Run `store` in a transaction, with the ids of parents whose counters are above `numbers`."""
        for _ in range(ATTEMPTS):
            try:
                # What is raised and not written yet would look like a loss to `reconcile`.
                with self._database.begin() as holding:
                    tallies.hold_import(holding, shard)
                    epoch = self._raise(shard, numbers)
                    with self._database.begin() as tx:
                        locked = sql.lock_shard(tx, shard, wait_seconds=LOCK_SECONDS)
                        if locked is not None and locked.epoch == epoch:
                            # A drain's name: whoever holds the shard for too long under it is ended.
                            sql.name_transaction(tx, f"instachat drain {shard}")
                            parents = _alive(tx, numbers)
                            store(tx, locked, {parent: row.id for parent, row in parents.items()})
                            return
                if locked is None:
                    self._settler.unblock(shard)
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
            except Exception as error:
                if sql.sqlstate(error) != sql.TAKEN:
                    raise
                raise _Overtaken from error
        raise Unavailable(
            f"shard {shard} is locked for too long, or Redis changes its life again and again",
            "see `instachat status`, then try again",
        )

    def _raise(self, shard: int, numbers: Mapping[Parent, int]) -> int:
        """Have the parents' counters above these numbers, and all they gave before stored.

        Returns the epoch in which that is so. LifeLost as usual; _Overtaken if a parent is gone.
        """
        create = False
        while True:
            with self._database.connect() as connection:
                # The epoch first: whoever claims another one after that makes Redis refuse this one.
                epoch, _ = sql.shard_state(connection, shard)
                parents = _alive(connection, numbers)
            complete, end = self._log.raise_all(
                shard,
                epoch,
                {
                    parent: max(number, parents[parent].highest)
                    for parent, number in numbers.items()
                },
                create=create,
            )
            self._settler.through(shard, end)
            if complete:
                return epoch
            # A counter that is missing may be made now: what it gave was in the log, and is stored.
            create = True


def _alive(connection: Connection, parents: Collection[Parent]) -> Mapping[Parent, AsStored]:
    """The rows of parents that all take children; _Overtaken if one does not any more."""
    found = sql.parents_as_stored(connection, parents)
    if len(found) < len(parents) or any(row.removed for row in found.values()):
        raise _Overtaken
    return found


def _highest(lines: Iterable[ChatLine | MessageLine]) -> dict[Parent, int]:
    """The highest number under each parent."""
    highest: dict[Parent, int] = {}
    for line in lines:
        parent = line.parent
        highest[parent] = max(line.number, highest.get(parent, 0))
    return highest
