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

from backend.domain.errors import EngineDown, NodeDown
from backend.domain.model import Parent
from backend.ingest.routing import Routing
from backend.storage.postgres import cascade, locks, outbox
from backend.storage.postgres.cascade import PendingCascade
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.stuck_transactions import StuckTransactions
from backend.storage.redis.log import Log

MAX_MESSAGES = 5_000  # of one transaction
MAX_CHATS = 1_000
MAX_PARENTS = 20  # of one round
STUCK_TIMEOUT_SECONDS = 30.0  # without progress
POLL_SECONDS = 0.05
TRANSACTION_NAME = "instachat cascade"
logger = logging.getLogger(__name__)


class CascadeDeleter:
    """Deletes the rows under removed parents. Thread-safe.

    A transaction calls `step` with `rows`, `counters` and `committed` as it reaches them, so that a test can
    end the process there.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        routing: Routing,
        *,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._database = database
        self._routing = routing
        self._step = step
        self._stuck = StuckTransactions(database, STUCK_TIMEOUT_SECONDS)
        self._max_messages = MAX_MESSAGES
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
        """Run one transaction; returns how many messages it deleted, None if all that is left is locked.

        After one that failed, the next has half of its messages: it may have been too large.
        """
        try:
            with self._database.begin() as tx:
                locks.name_transaction(tx, TRANSACTION_NAME)
                if pending.parent.chat is None:
                    deleted = self._delete_from_application(tx, pending)
                else:
                    deleted = self._delete_from_chat(tx, pending)
        except EngineDown:
            self._max_messages = max(self._max_messages // 2, 1)
            raise
        if deleted is None:
            self._end_stuck()
        else:
            self._max_messages = min(self._max_messages * 2, MAX_MESSAGES)
            self._step("committed")
        return deleted

    def _delete_from_chat(self, tx: Connection, pending: PendingCascade) -> int | None:
        if not cascade.lock_removed_chat(tx, pending.id):
            return None
        deleted, is_rest = self._delete_messages(tx, [pending.id])
        if is_rest:
            cascade.finish_cascade(tx, pending)
        return deleted

    def _delete_from_application(self, tx: Connection, pending: PendingCascade) -> int | None:
        chats = cascade.lock_some_chats(tx, pending.id, MAX_CHATS)
        if not chats:
            return 0 if cascade.finish_cascade(tx, pending) else None
        deleted, is_rest = self._delete_messages(tx, list(chats))
        if is_rest:
            cascade.delete_chats(tx, list(chats))
            # Before the commit: nothing would ever find the counter of a row that is deleted.
            token = pending.parent.token
            for shard in self._routing.shards_ever(tx, token):
                self._log.drop_counters(shard, [Parent(token, number) for number in chats.values()])
            self._step("counters")
        return deleted

    def _delete_messages(self, tx: Connection, chats: list[int]) -> tuple[int, bool]:
        """Delete some messages of these chats; returns how many, and whether they were all."""
        limit = self._max_messages
        deleted = cascade.delete_messages(tx, chats, limit)
        if shown := [(m.chat_id, m.number, m.version + 1) for m in deleted if m.shown]:
            outbox.add_if_publishing(tx, shown)
        self._step("rows")
        return len(deleted), len(deleted) < limit

    def _end_stuck(self) -> None:
        """End a transaction that holds its rows and makes no progress."""
        if self._stuck.end(TRANSACTION_NAME):
            self._max_messages = max(self._max_messages // 2, 1)
            logger.warning("ended a cascade that made no progress")
