"""Dead letters: what could not be stored or published, to be listed, retried or discarded.

A dead letter is named by its key. A retry stores the event under its own numbers and deletes the dead letter
in one transaction, so it happens once, however often it is called and whichever process is killed. A message
whose row says that it was rejected becomes a stored one, and its chat's count rises by one; any other event
is written as a drain would write it. If it still can't be stored, the dead letter stays.

A dead letter of publishing is retried by adding its message to the outbox again. Discarding a dead letter
changes nothing else: its number stays rejected.
"""

import json
from collections.abc import Iterator, Mapping

from backend.domain.errors import NotFound
from backend.domain.events import (
    ApplicationArrived,
    ApplicationMoved,
    ApplicationStored,
    ChatsCreated,
    DeletionRequested,
    MessagesCreated,
    unpack,
)
from backend.domain.model import Parent, checked_message
from backend.ingest.batch_writer import rejection_reason, retry_dead_letter
from backend.ingest.direct_write import DirectWriter, WriteConflict
from backend.storage.postgres import chats, dead_letters, messages, outbox
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    StoredDeadLetter,
)
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import Change

PAGE_SIZE = 200
EVERY = DeadLetterFilter()


class DeadLetters:
    """The dead letters. Thread-safe. Raises EngineDown when an engine is away."""

    def __init__(self, log: Log, database: Database, direct_writer: DirectWriter) -> None:
        self._log = log
        self._database = database
        self._direct_writer = direct_writer

    def all(
        self, selected: DeadLetterFilter = EVERY, limit: int | None = None
    ) -> Iterator[StoredDeadLetter]:
        """The selected dead letters, the oldest first, read a page at a time."""
        after = 0
        while limit is None or limit > 0:
            size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
            with self._database.connect() as connection:
                page = dead_letters.list_dead_letters(connection, selected, after, size)
            yield from page
            if len(page) < size:
                return
            after = page[-1].id
            limit = None if limit is None else limit - size

    def get(self, key: str) -> StoredDeadLetter:
        """One dead letter. Raises NotFound."""
        with self._database.connect() as connection:
            found = dead_letters.find_dead_letter(connection, key) if _is_valid_key(key) else None
        if found is None:
            raise NotFound("there is no such dead letter", "list them with `instachat dead list`")
        return found

    def purge(self, key: str) -> bool:
        """Discard a dead letter; False if it is not there. Its number stays rejected."""
        with self._database.begin() as tx:
            return dead_letters.delete_dead_letter(tx, key)

    def retry(self, key: str) -> str | None:
        """Retry a dead letter's event; returns None if that succeeded, else why it failed.

        Idempotent, and safe to call in several processes at once. Raises, with nothing changed, NotFound if
        there is no such dead letter, and Unavailable if the shard is locked for too long.
        """
        stored = self.get(key)
        if stored.kind == "publish":
            return self._republish(stored.letter)
        try:
            event = unpack(stored.letter.event)
        except ValueError as error:
            return str(error)
        if isinstance(event, DeletionRequested):
            return "a deletion is not retried: request it again if it is still wanted"
        if isinstance(event, ApplicationMoved | ApplicationArrived):
            return "a move is not retried: `instachat reshard` requests it again"
        if isinstance(event, ApplicationStored):
            return "an application is not retried: create it again if it is still wanted"
        return self._store(stored.letter, event)

    def _store(self, dead_letter: DeadLetter, event: ChatsCreated | MessagesCreated) -> str | None:
        chat = event.chat if isinstance(event, MessagesCreated) else None
        parent = Parent(event.token, chat)
        reason: str | None = None

        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            nonlocal reason
            if not dead_letters.lock_dead_letter(tx, dead_letter.key):
                return  # another process has retried or discarded it
            if isinstance(event, MessagesCreated) and dead_letter.number is not None:
                reason = _store_message(tx, locked, ids[parent], event, dead_letter.number)
                is_kept = reason is not None
            else:
                is_kept, reason = retry_dead_letter(
                    tx,
                    self._log,
                    locked,
                    self._database.installation.initial_shards,
                    dead_letter,
                )
            if not is_kept:
                dead_letters.delete_dead_letter(tx, dead_letter.key)

        try:
            self._direct_writer.write_for(event.token, {parent: event.last}, store)
        except WriteConflict:
            return f"{parent} does not exist, or is removed"
        if reason is None and chat is not None and dead_letter.number is not None:
            self._log.notify_changes([Change(event.token, chat, dead_letter.number)])
        return reason

    def _republish(self, dead_letter: DeadLetter) -> str | None:
        token, chat, number = dead_letter.token, dead_letter.chat, dead_letter.number
        if token is None or chat is None or number is None:
            return "it does not say which message it was"
        try:
            version = int(json.loads(dead_letter.event)[3])
        except (ValueError, IndexError, TypeError):
            return "it does not say which version of the message it was"
        key = (token, chat)
        with self._database.begin() as tx:
            if not outbox.is_publishing(tx):
                return "nothing is published here: there is no search index"
            id_, _ = chats.chat_ids(tx, [key]).get(key, (0, False))
            if not id_:
                return "its chat is removed, and has no row any more"
            if dead_letters.delete_dead_letter(tx, dead_letter.key):
                outbox.add_to_outbox(tx, [(id_, number, version)])
        return None


def _store_message(
    tx: Connection, locked: LockedShard, chat_id: int, event: MessagesCreated, number: int
) -> str | None:
    """Store one message of an event; returns why that is impossible, None if it is done."""
    new_message = event.message(number)
    try:
        checked_message(new_message)
        with tx.begin_nested():
            # Locks the chat's row first, as a deletion does, so that the two can't deadlock.
            chats.count_removed(tx, chat_id, -1)
            version = messages.restore_rejected_message(tx, chat_id, number, event.at, new_message)
            if version is None:
                raise _NotRejected
    except _NotRejected:
        return _explain_not_rejected(tx, chat_id, event, number)
    except Exception as error:
        if (reason := rejection_reason(error)) is None:
            raise
        return reason
    if locked.publishing:
        outbox.add_to_outbox(tx, [(chat_id, number, version)])
    return None


class _NotRejected(Exception):
    """The number has no row that says it was rejected. Rolls the count back."""


def _explain_not_rejected(
    tx: Connection, chat_id: int, event: MessagesCreated, number: int
) -> str | None:
    """Why a number without a rejected row can't be stored; None if this message is stored under it."""
    found = messages.message_times(tx, [(chat_id, number)]).get((chat_id, number))
    if found is None:
        return "its number has no row any more: see `instachat reconcile`"
    return None if found == event.at else dead_letters.MESSAGE_NUMBER_TAKEN


def _is_valid_key(key: str) -> bool:
    """Whether PostgreSQL accepts it as a text parameter."""
    return key.isascii() and "\0" not in key
