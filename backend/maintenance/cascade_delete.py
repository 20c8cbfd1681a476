"""Cascade: the rows under a removed application or chat are deleted, one bounded transaction after another.

A deletion turns the parent into a tombstone, in the log's order; from that moment on its children cannot be
reached, although their rows still exist. This module deletes the rows afterwards. A flag of the tombstone
says that rows may be left, so a process that is killed loses no work, and several processes may work on the
same parent: each locks what it deletes, and skips what another has locked.

A chat's tombstone stays as long as its application, since its number stays taken; of a removed application
only the tombstone stays. The counters of its chats are deleted from Redis with their rows. The application's
own counter stays there, closed, and no chat's counter issues numbers without it.

Where changes are published, each transaction names what it deletes, at a version above the row's, so that
the publisher removes it from the index, too.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from backend.domain.errors import NodeDown
from backend.domain.model import Parent, shard_of
from backend.storage.postgres import cascade, locks, outbox
from backend.storage.postgres.cascade import PendingCascade
from backend.storage.postgres.database import Connection, Database
from backend.storage.redis.log import Log

MAX_MESSAGES = 5_000  # of one transaction
MAX_CHATS = 1_000
MAX_PARENTS = 20  # of one round
STUCK_SECONDS = 30.0
POLL_SECONDS = 0.05
TRANSACTION_NAME = "instachat cascade"
logger = logging.getLogger(__name__)


class CascadeDeleter:
    """Deletes the rows under removed parents. Thread-safe.

    A transaction calls `step` with `rows`, `counters` and `committed` as it reaches them, so that a test can
    end the process there.
    """

    def __init__(
        self, log: Log, database: Database, *, step: Callable[[str], None] = lambda _: None
    ) -> None:
        self._log = log
        self._database = database
        self._step = step
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the running transactions finish, and begin no other."""
        self._stopping.set()

    def count_remaining(self, parent: Parent) -> int | None:
        """How many messages are left of a removed parent.

        None if the parent does not exist, is not removed, or nothing is left of it.
        """
        with self._database.connect() as connection:
            found = cascade.find_pending_cascade(connection, parent)
            return None if found is None else cascade.count_remaining_messages(connection, found)

    def delete(self, parent: Parent) -> Iterator[int]:
        """Delete all that is left of a removed parent; yields how many messages each transaction deleted.

        Ends when nothing is left, which includes the work of other processes, or after `stop`. Raises
        EngineDown when an engine is away; what was deleted stays deleted.
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
        """Delete what is left of all removed parents, for about so long; returns how many messages.

        Skips what other processes work on. Ends early if `may_continue` returns False between two rounds. If
        a node of a cluster does not answer, the others' are deleted, and then NodeDown is raised.
        """
        deadline = time.monotonic() + seconds
        total = 0
        failures: dict[Parent, NodeDown] = {}
        while not self._stopping.is_set() and time.monotonic() < deadline:
            with self._database.connect() as connection:
                found = [
                    pending
                    for pending in cascade.list_pending_cascades(
                        connection, MAX_PARENTS + len(failures)
                    )
                    if pending.parent not in failures
                ]
            deleted: list[int | None] = []
            for pending in found:
                try:
                    deleted.append(self._delete_batch(pending))
                except NodeDown as error:
                    failures[pending.parent] = error
            total += sum(filter(None, deleted))
            all_locked = all(count is None for count in deleted) and len(deleted) == len(found)
            if all_locked or not may_continue():
                break
        if failures:
            raise next(iter(failures.values()))
        return total

    def _delete_batch(self, pending: PendingCascade) -> int | None:
        """Run one transaction; returns how many messages it deleted, None if all that is left is locked."""
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
            # Before the commit: nothing would ever find the counter of a row that is deleted.
            token = pending.parent.token
            shard = shard_of(token, self._database.installation.shards)
            self._log.drop_counters(shard, [Parent(token, number) for number in chats.values()])
            self._step("counters")
        return deleted

    def _delete_messages(self, tx: Connection, chats: list[int]) -> int:
        deleted = cascade.delete_messages(tx, chats, MAX_MESSAGES)
        if shown := [(m.chat_id, m.number, m.version + 1) for m in deleted if m.shown]:
            outbox.add_if_publishing(tx, shown)
        self._step("rows")
        return len(deleted)

    def _terminate_stuck(self) -> None:
        """End a transaction that has held its rows for too long: its process was stopped, or cut off."""
        with self._database.connect() as connection:
            if locks.terminate_stuck_transactions(connection, TRANSACTION_NAME, STUCK_SECONDS):
                logger.warning("ended a cascade that held its rows for too long")
