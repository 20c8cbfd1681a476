"""Dead letters: looking at what could not be stored or published, trying it again, and giving it up.

A letter is named by its key. A retry stores the event under its own numbers, in one transaction with the
letter's end: so it happens once, however often it is asked for and whatever is killed. A message whose row
says that it was rejected becomes a stored one, and its chat's count rises by one; any other event goes
through the storing of a drain once more. Where it still can't be stored, the letter stays.

A letter of publishing is retried by naming its message in the outbox again. A letter that is given up takes
nothing with it: its number stays rejected.
"""

import json
from collections.abc import Iterator, Mapping

from backend.domain.errors import NotFound
from backend.domain.events import ChatsCreated, DeletionRequested, MessagesCreated, unpack
from backend.domain.folding import fold
from backend.domain.model import Parent, checked_text, shard_of
from backend.ingest.direct_write import DirectWriter, WriteConflict
from backend.ingest.drain import rejection_reason, store_dead_letter
from backend.storage.postgres import chats, dead_letters, messages, outbox
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.dead_letters import DeadLetter, StoredDeadLetter
from backend.storage.postgres.shards import LockedShard
from backend.storage.redis.log import Log

PAGE_SIZE = 200


class DeadLetters:
    """The dead letters. Thread-safe. Raises EngineDown when an engine is away."""

    def __init__(self, log: Log, database: Database, direct_writer: DirectWriter) -> None:
        self._log = log
        self._database = database
        self._direct_writer = direct_writer

    def all(self) -> Iterator[StoredDeadLetter]:
        """All letters, the oldest first, read a page at a time."""
        after = 0
        while True:
            with self._database.connect() as connection:
                page = dead_letters.list_dead_letters(connection, after, PAGE_SIZE)
            yield from page
            if len(page) < PAGE_SIZE:
                return
            after = page[-1].id

    def get(self, key: str) -> StoredDeadLetter:
        """One letter. NotFound."""
        with self._database.connect() as connection:
            found = dead_letters.find_dead_letter(connection, key) if _is_valid_key(key) else None
        if found is None:
            raise NotFound("there is no such dead letter", "list them with `instachat dead list`")
        return found

    def purge(self, key: str) -> bool:
        """Give a letter up; False if it is not there. A number that it tells of stays rejected."""
        with self._database.begin() as tx:
            return dead_letters.delete_dead_letter(tx, key)

    def retry(self, key: str) -> str | None:
        """Try a letter's event again; returns None if it is done, else why it still can't be.

        Idempotent, and safe to be asked for from several processes at once. NotFound if there is no such
        letter; Unavailable if the shard is held for too long; nothing is changed then.
        """
        kept = self.get(key)
        if kept.kind == "publish":
            return self._republish(kept.letter)
        try:
            event = unpack(kept.letter.event)
        except ValueError as error:
            return str(error)
        if isinstance(event, DeletionRequested):
            return "a deletion is asked for anew, by whoever wants it still"
        return self._store(kept.letter, event)

    def _store(self, letter: DeadLetter, event: ChatsCreated | MessagesCreated) -> str | None:
        chat = event.chat if isinstance(event, MessagesCreated) else None
        parent = Parent(event.token, chat)
        reason: str | None = None

        def store(tx: Connection, locked: LockedShard, ids: Mapping[Parent, int]) -> None:
            nonlocal reason
            if not dead_letters.lock_dead_letter(tx, letter.key):
                return  # somebody else was quicker
            if isinstance(event, MessagesCreated) and letter.number is not None:
                reason = _store_message(tx, locked, ids[parent], event, letter.number)
            else:
                reason = store_dead_letter(tx, self._log, locked, letter)
            if reason is None:
                dead_letters.delete_dead_letter(tx, letter.key)

        shard = shard_of(event.token, self._database.installation.shards)
        last = (
            event.first + len(event.texts) - 1 if isinstance(event, MessagesCreated) else event.last
        )
        try:
            self._direct_writer.write(shard, {parent: last}, store)
        except WriteConflict:
            return f"{parent} does not exist, or is removed"
        return reason

    def _republish(self, letter: DeadLetter) -> str | None:
        if letter.token is None or letter.chat is None or letter.number is None:
            return "it is not known any more which message it was"
        try:
            version = int(json.loads(letter.event)[3])
        except (ValueError, IndexError, TypeError):
            return "it does not say which version of the message it was"
        key = (letter.token, letter.chat)
        with self._database.begin() as tx:
            if not outbox.is_publishing(tx):
                return "nothing is published here: no search index is kept"
            id_, _ = chats.chat_ids(tx, [key]).get(key, (0, False))
            if not id_:
                return "its chat is removed, and no row tells of it any more"
            if dead_letters.delete_dead_letter(tx, letter.key):
                outbox.add_to_outbox(tx, [(id_, letter.number, version)])
        return None


def _store_message(
    tx: Connection, locked: LockedShard, chat_id: int, event: MessagesCreated, number: int
) -> str | None:
    """Store one message of an event, or say why it can't be."""
    text = event.texts[number - event.first]
    try:
        checked_text(text)
        with tx.begin_nested():
            # The chat's row lock first, as with a deletion: what is counted there is counted in turn.
            chats.count_removed(tx, chat_id, -1)
            version = messages.restore_rejected_message(
                tx, chat_id, number, event.at, text, fold(text)
            )
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
    """The number's row, if there is one, does not say that it was rejected; nothing is counted."""


def _explain_not_rejected(
    tx: Connection, chat_id: int, event: MessagesCreated, number: int
) -> str | None:
    """Why a number without a rejected row can't be stored; None if it is this very message's."""
    found = messages.message_times(tx, [(chat_id, number)]).get((chat_id, number))
    if found is None:
        return "its number has no row any more: see `instachat reconcile`"
    return None if found == event.at else "another message has this number"


def _is_valid_key(key: str) -> bool:
    """Whether PostgreSQL takes it as a text."""
    return key.isascii() and "\0" not in key
