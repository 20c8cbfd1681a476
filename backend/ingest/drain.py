"""Drain: from the log into SQL, each event exactly once.

The position is a row in SQL, the shard's cursor, and it moves in the very transaction that stores what
it passes. A crash before the commit stores nothing, a crash after it repeats nothing; there is no
acknowledgement that could be lost. One drain works on a shard at a time: it holds the row's lock, and
whoever finds it locked leaves, since the holder looks once more after letting go.

Rows go in by COPY. What PostgreSQL refuses as data (SQLSTATE class 22 or 23) is looked at row by row: an
equal creation is skipped, a different one under a taken number and data that can't be stored become dead
letters; the rest goes in by COPY again. Everything else (locks, disks, connections) is nobody's data's
fault: the transaction is given up, and the events stay in the log.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError

from backend.domain.errors import EngineDown, InstaChatError, Invalid
from backend.domain.events import ChatsCreated, DeletionRequested, MessagesCreated, unpack
from backend.domain.folding import fold
from backend.domain.model import EntryId, Parent, checked_text
from backend.ingest.epochs import Epochs
from backend.storage.postgres import (
    applications,
    chats,
    database,
    dead_letters,
    locks,
    messages,
    outbox,
    shards,
)
from backend.storage.postgres.chats import ChatRow
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.dead_letters import DeadLetter
from backend.storage.postgres.messages import MessageRow, RowValues
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log
from backend.storage.redis.types import LogPage, StaleEpoch

MAX_BATCH_ENTRIES = 5_000  # of one transaction
MAX_BATCH_BYTES = 4 * 1024 * 1024
STUCK_TIMEOUT_SECONDS = 10.0

Step = Callable[[str], None]
# Where rows come from: an entry's id, as Redis writes it, its event, and its field.
ChatsSource = tuple[bytes, ChatsCreated, bytes]
MessagesSource = tuple[bytes, MessagesCreated, bytes]
MessagesByChat = dict[
    tuple[str, int], list[MessagesSource]
]  # by token and number of their chat, each in order
StorableChat = tuple[int, list[MessagesSource]]  # … by the id of its row
logger = logging.getLogger(__name__)


class Drainer:
    """Moves events from the log to SQL. Thread-safe: one instance serves all of a process's threads.

    `notify_publisher` is called once something is committed that the outbox names.
    `step` is called with `read`, `rows`, `committed` and `trimmed` as a batch passes them, so that a
    test can end the process there.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        epochs: Epochs,
        *,
        notify_publisher: Callable[[], None] = lambda: None,
        step: Step = lambda _: None,
        stuck_timeout_seconds: float = STUCK_TIMEOUT_SECONDS,
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._notify_publisher = notify_publisher
        self._step = step
        self._stuck_timeout_seconds = stuck_timeout_seconds
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the batches under way finish, and begin no other."""
        self._stopping.set()

    def drain(self, shard: int, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Store all that a shard's log holds; returns the number of entries taken.

        Returns at once when another drain is at work on the shard, and between two batches after
        `stop`, or when `may_continue` says no. Raises EngineDown when an engine is away; nothing
        is lost or repeated by that.
        """
        taken = 0
        while not self._stopping.is_set():
            page = self._epochs.retrying(shard, lambda: self._drain_batch(shard))
            if page is None:
                self._end_stuck(shard)
                break
            taken += len(page.entries)
            self._step("committed")
            if page.in_outbox:
                self._notify_publisher()
            # Left over once the lock was let go: whoever rang meanwhile found it locked and left.
            left = self._log.trim(shard, page.end.epoch, page.through)
            self._step("trimmed")
            if not left or not may_continue():
                break
        return taken

    def drain_all(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Drain every shard whose log holds anything, as `drain` does; returns how many entries it took.

        A shard that can't be drained stops no other; the first such failure is raised at the end.
        """
        taken = 0
        failures: list[InstaChatError] = []
        for shard, length in enumerate(self._log.lengths(self._database.installation.shards)):
            try:
                taken += self.drain(shard, may_continue) if length and may_continue() else 0
            except EngineDown:
                raise
            except InstaChatError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return taken

    def _drain_batch(self, shard: int) -> "DrainBatch | None":
        """Store one batch; None if another drain holds the shard. StaleEpoch stores nothing."""
        with self._database.begin() as tx:
            locks.name_transaction(tx, f"instachat drain {shard}")
            locked = shards.lock_shard(tx, shard)
            if locked is None:
                return None
            # The first drain of an epoch reads from the beginning: what a restored or promoted Redis
            # holds need not be what the cursor has passed.
            same_epoch = locked.cursor.epoch == locked.epoch
            page = self._log.read(
                shard,
                locked.epoch,
                locked.installation,
                locked.cursor if same_epoch else EntryId(0, 0),
                max_entries=MAX_BATCH_ENTRIES,
                max_bytes=MAX_BATCH_BYTES,
            )
            self._epochs.observe(shard, max(page.end, locked.cursor))
            if page.end < locked.cursor:
                raise StaleEpoch("rewound")  # what it gives now, no drain would ever see
            if page.entries and _entry_id(page.entries[-1][0]) > page.end:
                raise StaleEpoch("ahead")  # somebody else appended: nothing of ours could be
            self._step("read")
            batch = DrainBatch(shard, page, locked.epoch)
            if batch.through > locked.cursor or page.entries:
                _BatchWriter(tx, batch, self._log, publishing=locked.publishing).run()
                shards.advance_cursor(
                    tx, shard, max(batch.through, locked.cursor), batch.dropped, batch.stored
                )
            self._step("rows")
        return batch

    def _end_stuck(self, shard: int) -> None:
        """End a drain that holds the shard for too long: stopped, or cut off from us."""
        with self._database.connect() as connection:
            name = f"instachat drain {shard}"
            if locks.terminate_stuck_transactions(connection, name, self._stuck_timeout_seconds):
                logger.warning("ended a drain of shard %d that held it for too long", shard)


@dataclass
class DrainBatch:
    """A page of the log on its way to SQL."""

    shard: int
    page: LogPage
    epoch: int
    dropped: int = 0
    stored: int = 0
    in_outbox: bool = False  # whether the outbox names any of it

    @property
    def entries(self) -> list[tuple[bytes, bytes]]:
        """The entries, in the log's order."""
        return self.page.entries

    @property
    def end(self) -> EntryId:
        """The log's end when the page was read."""
        return self.page.end

    @property
    def through(self) -> EntryId:
        """How far the cursor may move: the log's end, if nothing was left behind the page."""
        return self.page.end if self.page.complete else _entry_id(self.page.entries[-1][0])


@dataclass
class _BatchWriter:
    """One batch's way into one transaction."""

    tx: Connection
    batch: DrainBatch
    log: Log
    publishing: bool
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def run(self) -> None:
        """Store creations in runs; a deletion is decided between what is before and behind it."""
        chats: list[ChatsSource] = []
        messages: MessagesByChat = {}
        for entry, packed in self.batch.entries:
            try:
                event = unpack(packed)
            except ValueError as error:
                self._add_dead_letter(entry, packed, str(error))
                continue
            if isinstance(event, MessagesCreated):
                source = (entry, event, packed)
                messages.setdefault((event.token, event.chat), []).append(source)
            elif isinstance(event, ChatsCreated):
                chats.append((entry, event, packed))
            else:
                self._store(chats, messages)
                chats, messages = [], {}
                self._apply_deletion(_entry_id(entry), event)
        self._store(chats, messages)
        if self.dead_letters:
            dead_letters.add_dead_letters(self.tx, self.dead_letters)

    # -- creations ---------------------------------------------------------------------------------

    def _store(self, chats: list[ChatsSource], messages: MessagesByChat) -> None:
        self._store_chats(chats)
        self._store_messages(messages)

    def _store_chats(self, events: list[ChatsSource]) -> None:
        if not events:
            return
        known_applications = applications.application_ids(
            self.tx, {event.token for _, event, _ in events}
        )
        rows, sources = [], {}
        for entry, event, packed in events:
            id_, alive = known_applications.get(event.token, (0, True))
            if not id_:
                self._add_dead_letter(entry, packed, "the application does not exist", event)
            elif not alive:
                self.batch.dropped += event.last - event.first + 1
            else:
                rows.append(ChatRow(id_, event.first, event.last, event.at))
                sources[id_, event.first] = (entry, event, packed)
        if rows:
            stored, taken = chats.insert_chats(self.tx, rows)
            self.batch.stored += stored
            for id_, number in taken:
                entry, event, packed = next(
                    source
                    for (application, first), source in sources.items()
                    if application == id_ and first <= number <= source[1].last
                )
                self._add_dead_letter(entry, packed, "another chat has this number", event, number)

    def _store_messages(self, events: MessagesByChat) -> None:
        if not events:
            return
        known_chats = chats.chat_ids(self.tx, list(events))
        # Of a removed application no chat has a row for ever; the log of an earlier epoch may name one.
        missing = {token for token, chat in events if (token, chat) not in known_chats}
        known_applications = applications.application_ids(self.tx, missing) if missing else {}
        storable: list[StorableChat] = []
        for chat, sources in events.items():
            _, there = known_applications.get(chat[0], (0, True))
            id_, alive = known_chats.get(chat, (0, there))
            if not alive:
                self.batch.dropped += sum(len(event.texts) for _, event, _ in sources)
            elif not id_:
                for entry, event, packed in sources:
                    self._add_dead_letter(entry, packed, "the chat does not exist", event)
            else:
                storable.append((id_, sources))
        if not storable:
            return
        rows: Iterable[RowValues] = _rows(storable)
        count = sum(len(event.texts) for _, sources in storable for _, event, _ in sources)
        if self.publishing:
            rows = list(rows)  # kept, to be named once they are stored
        if self._copy(rows):
            rows = self._store_valid_rows(storable)
            count = len(rows)
        self.batch.stored += count
        if self.publishing and rows:
            outbox.add_to_outbox(self.tx, [(chat, n, version) for chat, n, _, _, version in rows])
            self.batch.in_outbox = True

    def _copy(self, rows: Iterable[RowValues]) -> Exception | None:
        """Store rows, all or none; returns what is wrong with the data if it is none."""
        try:
            with self.tx.begin_nested():
                messages.copy_messages(self.tx, rows)
        except Exception as error:
            if not _is_data_error(error):
                raise
            return error
        return None

    def _store_valid_rows(self, storable: list[StorableChat]) -> list[MessageRow]:
        """The slow way: take out the rows that are to blame, and store the others; returns those.

        Still quick when nearly all of them are good, or another drain would take this one for stuck.
        """
        rows = [MessageRow(*values) for values in _rows(storable)]
        sources = (source for _, sources in storable for source in sources for _ in source[1].texts)
        times = messages.message_times(self.tx, [(row.chat_id, row.number) for row in rows])
        good: list[tuple[MessageRow, MessagesSource]] = []
        for row, source in zip(rows, sources, strict=True):
            key = row.chat_id, row.number
            if key in times:
                if times[key] != row.at:
                    self._add_dead_letter_for_row(row, source, "another message has this number")
                continue  # or else it is this very creation, stored in an earlier epoch
            times[key] = row.at
            try:
                checked_text(row.text)
                good.append((row, source))
            except Invalid as error:
                self._store_rejected(row, source, error)
        return self._copy_by_bisection(good)

    def _copy_by_bisection(self, rows: list[tuple[MessageRow, MessagesSource]]) -> list[MessageRow]:
        """Store all rows but those that PostgreSQL refuses alone; returns the stored ones."""
        if not rows:
            return []
        error = self._copy([row for row, _ in rows])
        if not error:
            return [row for row, _ in rows]
        if len(rows) == 1:
            self._store_rejected(*rows[0], error)
            return []
        middle = len(rows) // 2
        return self._copy_by_bisection(rows[:middle]) + self._copy_by_bisection(rows[middle:])

    def _store_rejected(self, row: MessageRow, source: MessagesSource, error: Exception) -> None:
        """Keep the number of a message that can't be stored, and its event as a dead letter."""
        messages.insert_message(self.tx, row._replace(text="", folded=""), "dead")
        chats.count_removed(self.tx, row.chat_id, 1)
        self._add_dead_letter_for_row(row, source, f"can't be stored: {_reason(error)}")

    def _add_dead_letter_for_row(
        self, row: MessageRow, source: MessagesSource, reason: str
    ) -> None:
        entry, event, packed = source
        self._add_dead_letter(entry, packed, reason, event, row.number)

    def _add_dead_letter(
        self,
        entry: bytes,
        packed: bytes,
        reason: str,
        event: ChatsCreated | MessagesCreated | None = None,
        number: int | None = None,
    ) -> None:
        key = f"{self.batch.shard}-{entry.decode()}" + (f"-{number}" if number else "")
        token = event.token if event else None
        chat = event.chat if isinstance(event, MessagesCreated) else None
        logger.warning("dead letter %s: %s", key, reason)
        self.dead_letters.append(DeadLetter(key, reason, token, chat, number, packed))

    # -- deletions ---------------------------------------------------------------------------------

    def _apply_deletion(self, entry: EntryId, event: DeletionRequested) -> None:
        """Leave a tombstone if the deletion still stands and nothing is left inside; else reopen.

        A cascade leaves one whatever is inside.

        Reopening comes before the commit: after a crash in between, the same entry finds that it does
        not stand any more, and refuses again. A deletion that does not stand buries nothing.
        """
        parent = Parent(event.token, event.chat)
        if not self.log.is_closed_by(self.batch.shard, self.batch.epoch, parent, entry):
            return
        if event.chat is None:
            id_, alive = applications.application_ids(self.tx, [event.token]).get(
                event.token, (0, False)
            )
            gone = alive and applications.tombstone_application(self.tx, id_, cascade=event.cascade)
        else:
            key = (event.token, event.chat)
            id_, alive = chats.chat_ids(self.tx, [key]).get(key, (0, False))
            gone = alive and chats.tombstone_chat(self.tx, id_, cascade=event.cascade)
        if alive and not gone:
            self.log.reopen(self.batch.shard, self.batch.epoch, parent, entry)


def store_dead_letter(
    tx: Connection, log: Log, locked: LockedShard, letter: DeadLetter
) -> str | None:
    """Have a dead letter's event go through storing once more; returns why it still can't be stored.

    The caller holds the shard's lock. What can be stored of it is, and what is there already is passed
    over; a single one that can't be becomes a letter of its own.
    """
    shard, entry = letter.key.split("-", 1)
    name = "-".join(entry.split("-")[:2]).encode()
    page = LogPage([(name, letter.event)], locked.cursor, complete=True)
    writer = _BatchWriter(
        tx, DrainBatch(int(shard), page, locked.epoch), log, publishing=locked.publishing
    )
    writer.run()
    return next((again.reason for again in writer.dead_letters if again.key == letter.key), None)


def rejection_reason(error: Exception) -> str | None:
    """Why a message can't be stored, without a word of it; None if that is not the data's fault."""
    return f"can't be stored: {_reason(error)}" if _is_data_error(error) else None


def _is_data_error(error: Exception) -> bool:
    """Whether another try could never succeed, because of the data alone."""
    if isinstance(error, Invalid | UnicodeEncodeError):
        return True
    if not isinstance(error, DBAPIError) and not hasattr(error, "pgcode"):
        return False
    return (database.sqlstate(error) or "").startswith(("22", "23"))


def _reason(error: Exception) -> str:
    """Why, without a word of the data."""
    if isinstance(error, InstaChatError):
        return error.message
    return (
        f"PostgreSQL says {database.sqlstate(error)}"
        if database.sqlstate(error)
        else "not valid Unicode"
    )


def _rows(storable: list[StorableChat]) -> Iterator[RowValues]:
    """The rows, made one by one: of a batch that is good they are needed only once, and for a moment."""
    for chat_id, sources in storable:
        for _, event, _ in sources:
            for number, text in enumerate(event.texts, event.first):
                yield chat_id, number, text, fold(text), event.micros


def _entry_id(name: bytes) -> EntryId:
    return EntryId.parse(name.decode())
