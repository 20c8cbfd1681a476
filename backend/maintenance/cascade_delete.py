"""Clearing: what belonged to a removed application or chat is dropped, a bounded transaction at a time.

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

from sqlalchemy import Connection

from backend.domain.model import Parent, shard_of
from backend.storage import postgres
from backend.storage.postgres import Database, cascade
from backend.storage.postgres.cascade import Leftover
from backend.storage.redis.log import Log

MOST_MESSAGES = 5_000  # of one transaction
MOST_CHATS = 1_000
MOST_PARENTS = 20  # looked at in one round
STUCK_SECONDS = 30.0
POLL_SECONDS = 0.05
NAME = "instachat cascade"
logger = logging.getLogger(__name__)


class Clearer:
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

    def left(self, parent: Parent) -> int | None:
        """How many messages are left of a removed parent; None if it is not removed, or all is gone."""
        with self._database.connect() as connection:
            found = cascade.leftover(connection, parent)
            return None if found is None else cascade.count_left(connection, found)

    def clear(self, parent: Parent) -> Iterator[int]:
        """Drop all that is left of a removed parent; gives how many messages each transaction dropped.

        Ends when nothing is left, or after `stop`; where others work on the same, when they are done,
        too. Raises EngineDown when an engine is away; what was dropped stays dropped.
        """
        while not self._stopping.is_set():
            with self._database.connect() as connection:
                found = cascade.leftover(connection, parent)
            if found is None:
                return
            dropped = self._drop_some(found)
            if dropped is None:
                time.sleep(POLL_SECONDS)
            else:
                yield dropped

    def clear_all(
        self, seconds: float = float("inf"), go_on: Callable[[], bool] = lambda: True
    ) -> int:
        """Drop what is left of all removed parents, for about so long; returns how many messages.

        Passes by what others work on. Ends also when `go_on`, asked between two rounds, says no.
        """
        deadline = time.monotonic() + seconds
        total = 0
        while not self._stopping.is_set() and time.monotonic() < deadline:
            with self._database.connect() as connection:
                found = cascade.leftovers(connection, MOST_PARENTS)
            dropped = [self._drop_some(leftover) for leftover in found]
            total += sum(filter(None, dropped))
            if all(count is None for count in dropped) or not go_on():
                break
        return total

    def _drop_some(self, leftover: Leftover) -> int | None:
        """One transaction: how many messages it dropped; None if others have all that is left locked."""
        with self._database.begin() as tx:
            postgres.name_transaction(tx, NAME)
            if leftover.parent.chat is None:
                dropped = self._drop_of_application(tx, leftover)
            else:
                dropped = self._drop_of_chat(tx, leftover)
        if dropped is None:
            self._end_stuck()
        else:
            self._step("committed")
        return dropped

    def _drop_of_chat(self, tx: Connection, leftover: Leftover) -> int | None:
        if not cascade.lock_removed_chat(tx, leftover.id):
            return None
        dropped = self._drop_messages(tx, [leftover.id])
        if dropped < MOST_MESSAGES:
            cascade.nothing_left(tx, leftover)
        return dropped

    def _drop_of_application(self, tx: Connection, leftover: Leftover) -> int | None:
        chats = cascade.lock_some_chats(tx, leftover.id, MOST_CHATS)
        if not chats:
            return 0 if cascade.nothing_left(tx, leftover) else None
        dropped = self._drop_messages(tx, list(chats))
        if dropped < MOST_MESSAGES:
            cascade.drop_chats(tx, list(chats))
            # Before the commit: a counter whose row is gone would never be found again.
            token = leftover.parent.token
            shard = shard_of(token, self._database.installation.shards)
            self._log.forget(shard, [Parent(token, number) for number in chats.values()])
            self._step("counters")
        return dropped

    def _drop_messages(self, tx: Connection, chats: list[int]) -> int:
        dropped = cascade.drop_messages(tx, chats, MOST_MESSAGES)
        shown = [(m.chat_id, m.number, m.version + 1) for m in dropped if m.shown]
        if shown and postgres.publishing(tx):
            postgres.add_to_outbox(tx, shown)
        self._step("rows")
        return len(dropped)

    def _end_stuck(self) -> None:
        """End a transaction that has held its rows for too long: stopped, or cut off from us."""
        with self._database.connect() as connection:
            if postgres.end_stuck(connection, NAME, STUCK_SECONDS):
                logger.warning("ended a cascade that held its rows for too long")
