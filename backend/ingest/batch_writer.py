"""Writes one batch of the log's entries into SQL, in the transaction of the drain.

Rows are written by COPY. If PostgreSQL refuses the data (SQLSTATE class 22 or 23), the rows are checked one
by one: a creation that is stored already is skipped; a different one under a taken number, and data that
can't be stored, become dead letters; the rest is written by COPY again. Lock, disk and connection errors are
not caused by the data: they are raised, the transaction is rolled back, and the events stay in the log.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from backend.domain.errors import InstaChatError, Invalid
from backend.domain.events import (
    ApplicationArrived,
    ApplicationMoved,
    ApplicationStored,
    ChatsCreated,
    DeletionRequested,
    MessagesCreated,
)
from backend.domain.model import EntryId, Parent, checked_message, shard_of
from backend.ingest.batch import DecodedEntry, decode_entry
from backend.storage.postgres import (
    applications,
    chats,
    database,
    dead_letters,
    gaps,
    messages,
    outbox,
    placements,
    shards,
)
from backend.storage.postgres.chats import ChatRow
from backend.storage.postgres.database import Connection
from backend.storage.postgres.dead_letters import DeadLetter
from backend.storage.postgres.message_blocks import (
    StoredSpan,
    block_spans,
    fills_block,
    record_blocks,
)
from backend.storage.postgres.messages import MessageRow, RowValues
from backend.storage.postgres.schema import raise_compatible_since
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.counters import NO_ENTRY
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import Change

Created = TypeVar("Created", ChatsCreated, MessagesCreated)
logger = logging.getLogger(__name__)


class LogEntry(Struct, Generic[Created], frozen=True, gc=False):
    """An entry that creates something: its id, as Redis writes it, its event, and its packed event.

    `folded` are the folded texts of the messages that it creates.
    """

    id: bytes
    event: Created
    packed: bytes
    folded: Sequence[str] = ()


ChatKey = tuple[str, int]
"""A chat by its application's token and its number."""
MessagesByChat = dict[ChatKey, list[LogEntry[MessagesCreated]]]


class StorableChat(NamedTuple):
    """Entries of messages whose chat has a row, in the log's order."""

    key: ChatKey
    chat_id: int
    entries: list[LogEntry[MessagesCreated]]


class BatchWriter:
    """Writes the entries of one batch; use it once. What it did is in its attributes afterwards."""

    def __init__(
        self,
        tx: Connection,
        log: Log,
        shard: int,
        locked: LockedShard,
        initial_shards: range,
        *,
        retrying: bool = False,
    ) -> None:
        """`tx` is the transaction that holds the shard's lock, whose row is `locked`.

        `initial_shards` are those that the installation began with. When `retrying`, the entries come after
        others that were stored before them.
        """
        self._tx = tx
        self._log = log
        self._shard = shard
        self._epoch = locked.epoch
        self._publishing = locked.publishing
        self._initial_shards = initial_shards
        # The first drain of an epoch may read what an old copy of Redis brought back.
        self._in_order = not retrying and locked.cursor.epoch == locked.epoch
        self.stored = 0
        """Rows that were written."""
        self.dropped = 0
        """Creations under a removed parent, which get no row."""
        self.written = 0
        """With `waits_for`: how many entries were written."""
        self.waits_for: int | None = None
        """The shard whose log has to be stored first, which SQL has forgotten."""
        self.in_outbox = False
        """Whether the outbox names any of the rows."""
        self.dead_letters: list[DeadLetter] = []
        self.changes: set[Change] = set()
        """What followers have to look at, once the transaction is committed."""

    def write(self, entries: Iterable[DecodedEntry]) -> None:
        """Write entries in the log's order.

        Creations are collected and written together; a deletion or a move is decided after the creations
        before it and before those behind it. Ends before an entry that has to wait for another shard.
        """
        chat_entries: list[LogEntry[ChatsCreated]] = []
        message_entries: MessagesByChat = {}
        for place, decoded in enumerate(entries):
            id_, packed, event = decoded.id, decoded.packed, decoded.event
            if isinstance(event, MessagesCreated):
                entry = LogEntry(id_, event, packed, decoded.folded)
                message_entries.setdefault((event.token, event.chat), []).append(entry)
            elif event is None:
                self._add_dead_letter(id_, packed, decoded.error)
            elif isinstance(event, ChatsCreated):
                chat_entries.append(LogEntry(id_, event, packed))
            elif isinstance(event, ApplicationStored):
                self._restore_application(id_, event, packed)
            else:
                self._write_chats(chat_entries)
                self._write_messages(message_entries)
                chat_entries, message_entries = [], {}
                if isinstance(event, DeletionRequested):
                    self._apply_deletion(EntryId.parse(id_.decode()), event)
                elif isinstance(event, ApplicationMoved):
                    self._move_application(EntryId.parse(id_.decode()), event)
                elif not self._receive_application(event):
                    self.written, self.waits_for = place, event.origin
                    break
        self._write_chats(chat_entries)
        self._write_messages(message_entries)
        if self.dead_letters:
            dead_letters.add_dead_letters(self._tx, self.dead_letters)

    # -- applications ------------------------------------------------------------------------------

    def _restore_application(self, id_: bytes, event: ApplicationStored, packed: bytes) -> None:
        """Store an application, or its name, that SQL has forgotten: without a rewind it has both."""
        version = applications.application_versions(self._tx, [event.token]).get(event.token)
        if version is not None and version >= event.version:
            return
        try:
            with self._tx.begin_nested():
                applications.restore_application(self._tx, event, self._shard)
        except Exception as error:
            if not _is_data_error(error):
                raise
            self._add_dead_letter(id_, packed, f"can't be stored: {_cause(error)}")

    def _move_application(self, entry: EntryId, event: ApplicationMoved) -> None:
        """Place an application in another shard: all that it had in this one is stored now, or before.

        A move that is decided already, by an earlier drain of this entry, changes nothing.
        """
        moved = placements.move_application(
            self._tx,
            event.token,
            origin=self._shard,
            initial=shard_of(event.token, self._initial_shards),
            shard=event.shard,
            move=event.move,
            through=entry,
        )
        if moved:  # SQL may have gone back to a time before the reshard
            raise_compatible_since(self._tx, placements.RESHARD_SCHEMA)
            placements.add_shards(self._tx, [event.shard])

    def _receive_application(self, event: ApplicationArrived) -> bool:
        """Whether what an application had in an earlier shard is stored, so that what follows can be.

        It is, unless SQL has gone back in time since.
        """
        row = placements.find_placements(self._tx, [event.token]).get(event.token)
        if row is not None and row.moves >= event.move:
            return True
        origin = shards.all_progress(self._tx).get(event.origin)
        if origin is None or origin.position(event.token) < event.through:
            placements.add_shards(self._tx, [event.origin])
            return False
        placements.receive_application(
            self._tx,
            event.token,
            origin=event.origin,
            shard=self._shard,
            move=event.move,
            through=event.through,
        )
        return True

    # -- chats -------------------------------------------------------------------------------------

    def _write_chats(self, entries: list[LogEntry[ChatsCreated]]) -> None:
        if not entries:
            return
        known = applications.application_ids(self._tx, {entry.event.token for entry in entries})
        rows: list[ChatRow] = []
        entry_of: dict[tuple[int, int], LogEntry[ChatsCreated]] = {}
        """By the application's id and the first chat's number."""
        for entry in entries:
            event = entry.event
            id_, alive = known.get(event.token, (0, True))
            if not id_:
                self._add_dead_letter(
                    entry.id, entry.packed, "the application does not exist", event
                )
            elif not alive:
                self.dropped += event.last - event.first + 1
            else:
                rows.append(ChatRow(id_, event.first, event.last, event.at))
                entry_of[id_, event.first] = entry

        def find_entry(application_id: int, number: int) -> LogEntry[ChatsCreated]:
            return next(
                entry
                for (id_, first), entry in entry_of.items()
                if id_ == application_id and first <= number <= entry.event.last
            )

        if rows:
            numbers = (
                (row.application_id, n) for row in rows for n in range(row.first, row.last + 1)
            )
            found = [] if self._in_order else gaps.take_chats_from_ranges(self._tx, numbers)
            inserted = chats.insert_chats(self._tx, rows)
            self.stored += inserted.stored
            for id_, number in inserted.taken:
                entry = find_entry(id_, number)
                self._add_dead_letter(
                    entry.id, entry.packed, dead_letters.CHAT_NUMBER_TAKEN, entry.event, number
                )
            for id_, number in (*found, *inserted.lost):
                # A counter that was closed because its chat was lost. After a crash, `verify` opens it.
                chat = Parent(find_entry(id_, number).event.token, number)
                self._log.reopen(self._shard, self._epoch, chat, NO_ENTRY)

    # -- messages ----------------------------------------------------------------------------------

    def _write_messages(self, entries_by_chat: MessagesByChat) -> None:
        storable = self._find_storable(entries_by_chat) if entries_by_chat else []
        if not storable:
            return
        self.changes.update(Change(*chat.key) for chat in storable)
        rows: Iterable[RowValues] = _rows(storable)
        count = sum(len(entry.event.messages) for chat in storable for entry in chat.entries)
        if not self._in_order:
            gaps.take_messages_from_ranges(
                self._tx,
                (
                    (chat.chat_id, number)
                    for chat in storable
                    for entry in chat.entries
                    for number in range(entry.event.first, entry.event.last + 1)
                ),
            )
        if self._publishing:
            rows = list(rows)  # kept for the outbox
        if self._copy(rows):
            rows = self._write_valid_rows(storable)
            count = len(rows)
        self.stored += count
        self._record_blocks(storable)
        if self._publishing and rows:
            outbox.add_to_outbox(self._tx, messages.keys_and_versions(rows))
            self.in_outbox = True

    def _find_storable(self, entries_by_chat: MessagesByChat) -> list[StorableChat]:
        """The chats that take messages; the entries of others are dropped, or become dead letters."""
        known_chats = chats.chat_ids(self._tx, list(entries_by_chat))
        # The rows of a removed application's chats are deleted in the end; an earlier epoch's log may name
        # one.
        missing = {token for token, chat in entries_by_chat if (token, chat) not in known_chats}
        known_applications = applications.application_ids(self._tx, missing) if missing else {}
        storable: list[StorableChat] = []
        for chat, entries in entries_by_chat.items():
            _, application_alive = known_applications.get(chat[0], (0, True))
            id_, alive = known_chats.get(chat, (0, application_alive))
            if not alive:
                self.dropped += sum(len(entry.event.messages) for entry in entries)
            elif not id_:
                for entry in entries:
                    self._add_dead_letter(
                        entry.id, entry.packed, "the chat does not exist", entry.event
                    )
            else:
                storable.append(StorableChat(chat, id_, entries))
        return storable

    def _record_blocks(self, storable: list[StorableChat]) -> None:
        """Record the blocks that these messages filled.

        Within an epoch, drains store a chat's numbers in their order.
        """
        spans: list[StoredSpan] = []
        for _, chat_id, entries in storable:
            first, last = entries[0].event.first, entries[-1].event.last
            if not self._in_order or fills_block(first, last):
                spans += block_spans(chat_id, [entry.event for entry in entries])
        if spans:
            record_blocks(self._tx, spans, in_order=self._in_order)

    def _copy(self, rows: Iterable[RowValues]) -> Exception | None:
        """Write all rows and return None; or write none and return the error that the data caused."""
        try:
            with self._tx.begin_nested():
                messages.copy_messages(self._tx, rows)
        except Exception as error:
            if not _is_data_error(error):
                raise
            return error
        return None

    def _write_valid_rows(self, storable: list[StorableChat]) -> list[MessageRow]:
        """Write the rows that can be stored, after COPY refused some; returns them.

        Fast enough even for a full batch: a slow drain would be ended as stuck, and again after each retry.
        """
        rows = [MessageRow(*values) for values in _rows(storable)]
        entries = (
            (entry, new_message)
            for chat in storable
            for entry in chat.entries
            for new_message in entry.event.messages
        )
        keys = [(row.chat_id, row.number) for row in rows]
        messages.delete_lost(self._tx, keys)
        times = messages.message_times(self._tx, keys)
        valid: list[tuple[MessageRow, LogEntry[MessagesCreated]]] = []
        for row, (entry, new_message) in zip(rows, entries, strict=True):
            key = row.chat_id, row.number
            if key in times:
                if times[key] != row.at:
                    self._add_message_dead_letter(row, entry, dead_letters.MESSAGE_NUMBER_TAKEN)
                continue  # otherwise it is this creation, stored in an earlier epoch
            times[key] = row.at
            try:
                checked_message(new_message)
                valid.append((row, entry))
            except Invalid as error:
                self._reject(row, entry, error)
        return self._copy_by_bisection(valid)

    def _copy_by_bisection(
        self, rows: list[tuple[MessageRow, LogEntry[MessagesCreated]]]
    ) -> list[MessageRow]:
        """Write all rows but those that PostgreSQL refuses even alone; returns the written ones."""
        if not rows:
            return []
        error = self._copy([row for row, _ in rows])
        if not error:
            return [row for row, _ in rows]
        if len(rows) == 1:
            self._reject(*rows[0], error)
            return []
        middle = len(rows) // 2
        return self._copy_by_bisection(rows[:middle]) + self._copy_by_bisection(rows[middle:])

    # -- dead letters ------------------------------------------------------------------------------

    def _reject(self, row: MessageRow, entry: LogEntry[MessagesCreated], error: Exception) -> None:
        """Write a row without text for a message that can't be stored, and its event as a dead letter."""
        messages.insert_message(self._tx, row.emptied(), "dead")
        chats.count_removed(self._tx, row.chat_id, 1)
        self._add_message_dead_letter(row, entry, f"can't be stored: {_cause(error)}")

    def _add_message_dead_letter(
        self, row: MessageRow, entry: LogEntry[MessagesCreated], reason: str
    ) -> None:
        self._add_dead_letter(entry.id, entry.packed, reason, entry.event, row.number)

    def _add_dead_letter(
        self,
        id_: bytes,
        packed: bytes,
        reason: str,
        event: ChatsCreated | MessagesCreated | None = None,
        number: int | None = None,
    ) -> None:
        key = f"{self._shard}-{id_.decode()}" + (f"-{number}" if number else "")
        token = event.token if event else None
        chat = event.chat if isinstance(event, MessagesCreated) else None
        logger.warning("dead letter %s: %s", key, reason)
        self.dead_letters.append(DeadLetter(key, reason, token, chat, number, packed))

    # -- deletions ---------------------------------------------------------------------------------

    def _apply_deletion(self, entry: EntryId, event: DeletionRequested) -> None:
        """Write a tombstone if the parent has no children or the deletion cascades; else refuse the deletion.

        A refusal opens the parent's counter again, before the transaction commits. After a crash in between,
        the same entry finds the counter open and changes nothing, so the refusal stands.
        """
        parent = Parent(event.token, event.chat)
        if not self._log.is_closed_by(self._shard, self._epoch, parent, entry):
            return
        if event.chat is None:
            id_, alive = applications.application_ids(self._tx, [event.token]).get(
                event.token, (0, False)
            )
            removed = alive and applications.tombstone_application(
                self._tx, id_, cascade=event.cascade
            )
        else:
            key = (event.token, event.chat)
            id_, alive = chats.chat_ids(self._tx, [key]).get(key, (0, False))
            removed = alive and chats.tombstone_chat(self._tx, id_, cascade=event.cascade)
        if removed:
            self.changes.add(Change(event.token, event.chat))
        elif alive:
            self._log.reopen(self._shard, self._epoch, parent, entry)


class RetriedEntry(NamedTuple):
    """What became of a dead letter's event: its own dead letter is needed still, or is replaced by others.

    `reason` says why the retry has stored nothing; None if it has, or if everything was stored before.
    """

    is_kept: bool
    reason: str | None


def retry_dead_letter(
    tx: Connection, log: Log, locked: LockedShard, initial_shards: range, dead_letter: DeadLetter
) -> RetriedEntry:
    """Write a dead letter's event once more.

    The caller holds the shard's lock. Of its creations, those that are stored already are skipped, and each
    that can't be stored becomes a dead letter of its own.
    """
    shard, entry = dead_letter.key.split("-", 1)
    id_ = "-".join(entry.split("-")[:2]).encode()
    writer = BatchWriter(tx, log, int(shard), locked, initial_shards, retrying=True)
    writer.write([decode_entry(id_, dead_letter.event)])
    letters = writer.dead_letters
    return RetriedEntry(
        is_kept=any(letter.key == dead_letter.key for letter in letters),
        reason=letters[0].reason if letters and not writer.stored else None,
    )


def rejection_reason(error: Exception) -> str | None:
    """Why a message can't be stored, without its text; None if the data did not cause the error."""
    return f"can't be stored: {_cause(error)}" if _is_data_error(error) else None


def _is_data_error(error: Exception) -> bool:
    """Whether the data caused the error, so that a retry would fail in the same way."""
    if isinstance(error, Invalid | UnicodeEncodeError):
        return True
    return (database.sqlstate(error) or "").startswith(("22", "23"))


def _cause(error: Exception) -> str:
    """The cause without the data."""
    if isinstance(error, InstaChatError):
        return error.message
    code = database.sqlstate(error)
    return f"PostgreSQL says {code}" if code else "not valid Unicode"


def _rows(storable: list[StorableChat]) -> Iterator[RowValues]:
    """The rows, one at a time: COPY needs each only once, so a valid batch is never in memory twice."""
    for _, chat_id, entries in storable:
        for entry in entries:
            event = entry.event
            number, micros = event.first, event.micros
            for text, folded in zip(event.messages, entry.folded, strict=True):
                yield chat_id, number, text, folded, micros
                number += 1
