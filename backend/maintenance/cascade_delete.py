"""Clearing: what belonged to a removed application or chat is deleted, a bounded transaction at a time.

A deletion leaves the parent's tombstone, in the log's order; from that moment on its children can't be
reached, whether their rows are there or not. The rows go afterwards. What is left to do is a flag at the
tombstone, so whoever is killed loses nothing, and any number may work on it: each locks what it drops, and
passes by what another has locked.

A chat's tombstone stays in a living application, since its number stays taken; of a removed application
only its own tombstone stays. With the rows of its chats go their counters in Redis: the application's own
stays there, closed, and without it none of theirs gives a number.

Where changes are published, each transaction names what it drops, at a version above the row's, so that it
leaves the index, too.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from backend.domain.model import Parent, shard_of
from backend.storage.postgres import cascade, locks, outbox
from backend.storage.postgres.cascade import PendingCascade
from backend.storage.postgres.database import Connection, Database
from backend.storage.redis.log import Log

MAX_MESSAGES = 5_000  # of one transaction
MAX_CHATS = 1_000
MAX_PARENTS = 20  # looked at in one round
STUCK_SECONDS = 30.0
POLL_SECONDS = 0.05
TRANSACTION_NAME = "instachat cascade"
logger = logging.getLogger(__name__)


class CascadeDeleter:
    """Drops what removed parents left. Thread-safe.

    `step` is called with `rows`, `counters` and `committed` as a transaction passes them, so that a test
    can end the process there.
    """

    def __init__(
        self, log: Log, database: Database, *, step: Callable[[str], None] = lambda _: None
    ) -> None:
        self._log = log
        self._database = database
        self._step = step
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the transactions under way finish, and begin no other."""
        self._stopping.set()

    def count_remaining(self, parent: Parent) -> int | None:
        """How many messages are left of a removed parent; None if it is not removed, or all is gone."""
        with self._database.connect() as connection:
            found = cascade.find_pending_cascade(connection, parent)
            return None if found is None else cascade.count_remaining_messages(connection, found)

    def delete(self, parent: Parent) -> Iterator[int]:
        """Drop all that is left of a removed parent; gives how many messages each transaction deleted.

        Ends when nothing is left, or after `stop`; where others work on the same, when they are done,
        too. Raises EngineDown when an engine is away; what was dropped stays deleted.
        """
        while not self._stopping.is_set():
            with self._database.connect() as connection:
                found = cascade.find_pending_cascade(connection, parent)
            if found is None:
                return
            deleted = self._delete_batch(found)
            if deleted is None:
                time.sleep(POLL_SECONDS)
            else:
                yield deleted

    def delete_all(
        self, seconds: float = float("inf"), may_continue: Callable[[], bool] = lambda: True
    ) -> int:
        """Drop what is left of all removed parents, for about so long; returns how many messages.

        Passes by what others work on. Ends also when `may_continue`, asked between two rounds, says no.
        """
        deadline = time.monotonic() + seconds
        total = 0
        while not self._stopping.is_set() and time.monotonic() < deadline:
            with self._database.connect() as connection:
                found = cascade.list_pending_cascades(connection, MAX_PARENTS)
            deleted = [self._delete_batch(pending) for pending in found]
            total += sum(filter(None, deleted))
            if all(count is None for count in deleted) or not may_continue():
                break
        return total

    def _delete_batch(self, pending: PendingCascade) -> int | None:
        """One transaction: how many messages it dropped; None if others have all that is left locked."""
        with self._database.begin() as tx:
            locks.name_transaction(tx, TRANSACTION_NAME)
            if pending.parent.chat is None:
                deleted = self._delete_from_application(tx, pending)
            else:
                deleted = self._delete_from_chat(tx, pending)
        if deleted is None:
            self._terminate_stuck()
        else:
            self._step("committed")
        return deleted

    def _delete_from_chat(self, tx: Connection, pending: PendingCascade) -> int | None:
        if not cascade.lock_removed_chat(tx, pending.id):
            return None
        deleted = self._delete_messages(tx, [pending.id])
        if deleted < MAX_MESSAGES:
            cascade.finish_cascade(tx, pending)
        return deleted

    def _delete_from_application(self, tx: Connection, pending: PendingCascade) -> int | None:
        chats = cascade.lock_some_chats(tx, pending.id, MAX_CHATS)
        if not chats:
            return 0 if cascade.finish_cascade(tx, pending) else None
        deleted = self._delete_messages(tx, list(chats))
        if deleted < MAX_MESSAGES:
            cascade.delete_chats(tx, list(chats))
            # Before the commit: a counter whose row is gone would never be found again.
            token = pending.parent.token
            shard = shard_of(token, self._database.installation.shards)
            self._log.drop_counters(shard, [Parent(token, number) for number in chats.values()])
            self._step("counters")
        return deleted

    def _delete_messages(self, tx: Connection, chats: list[int]) -> int:
        deleted = cascade.delete_messages(tx, chats, MAX_MESSAGES)
        shown = [(m.chat_id, m.number, m.version + 1) for m in deleted if m.shown]
        if shown and outbox.is_publishing(tx):
            outbox.add_to_outbox(tx, shown)
        self._step("rows")
        return len(deleted)

    def _terminate_stuck(self) -> None:
        """End a transaction that has held its rows for too long: stopped, or cut off from us."""
        with self._database.connect() as connection:
            if locks.terminate_stuck_transactions(connection, TRANSACTION_NAME, STUCK_SECONDS):
                logger.warning("ended a cascade that held its rows for too long")
