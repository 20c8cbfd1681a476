"""Waiting until what was accepted is stored."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from backend.domain.errors import NotFound, NotStoredYet
from backend.domain.model import Accepted, Parent
from backend.ingest.barrier import wait_cursor
from backend.ingest.counters import Counters
from backend.ingest.local_drain import ShardDrainer
from backend.storage.postgres import parents, shards
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers

Row = TypeVar("Row")
READ_TIMEOUT_SECONDS = 1.0  # how long a read waits for what is accepted
CHANGE_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class PendingNumber:
    """A number that is issued, and whose chat or message is not stored yet."""

    number: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waits until what was accepted is stored. Thread-safe.

    Where no worker is running, this process drains. While the job queue is paused, nothing drains, and
    nothing is waited for.
    """

    log: Log
    workers: Workers
    database: Database
    counters: Counters
    drainer: ShardDrainer
    read_timeout: float = READ_TIMEOUT_SECONDS
    change_timeout: float = CHANGE_TIMEOUT_SECONDS

    def wait_stored(self, token: str, accepted: Accepted, seconds: float) -> bool:
        """Wait until what the application `accepted` is decided in SQL; False if it takes longer."""
        shard = accepted.shard
        return wait_cursor(
            self.database,
            shard,
            accepted.entry,
            seconds,
            token=token,
            drain=lambda: self.drainer.drain(shard) if self.are_workers_missing() else 0,
            may_continue=lambda: not self.are_workers_paused(),
        )

    def wait_for_row(
        self,
        find: Callable[[], Row | None],
        parent: Parent,
        number: int,
        seconds: float,
        missing: NotFound,
    ) -> Row | None:
        """Return what `find` finds, as soon as the number's row is stored; None if that takes longer.

        Raises `missing` if the number was never issued, or its row will never come.
        """
        deadline = time.monotonic() + seconds
        while True:
            row = find()
            if row is None and not self._is_pending(parent, number):
                row = find()  # it may have been stored between the two reads
                if row is None:
                    raise missing
            if row is not None or time.monotonic() >= deadline or self.are_workers_paused():
                return row
            time.sleep(POLL_SECONDS)

    def are_workers_missing(self) -> bool:
        """Whether none is running, and they are not paused; False if that is not known."""
        return self.workers.state().are_missing

    def are_workers_paused(self) -> bool:
        """Whether workers are known to be paused."""
        return bool(self.workers.state().are_paused)

    def drain_without_worker(self, token: str) -> None:
        """Before a change: where no worker is running, store what was accepted from this process."""
        if self.are_workers_missing():
            self.drainer.drain(self.counters.shard(token))

    def not_stored_yet(self, what: str) -> NotStoredYet:
        """The error for a change of something that is accepted, and not stored yet."""
        return NotStoredYet(*self.explain(f"{what} is accepted, and not stored yet"))

    def explain(self, what: str) -> tuple[str, str]:
        """What waits for a worker, with the reason if it is known; and a hint."""
        if self.are_workers_paused():
            return (
                f"{what}, since the job queue is paused",
                "`instachat queue resume` lets it go on",
            )
        return what, "see `instachat status`: is a worker running?"

    def _is_pending(self, parent: Parent, number: int) -> bool:
        """Whether a number without a row may still be stored.

        It may until the application's position has passed the log's end, which is read after `issued`, unless
        the parent is removed: its rows are then hidden, whatever else the log has. Raises NotFound if the
        parent does not exist.
        """
        issued = self.counters.read_issued_with_end([parent])
        if number > issued.numbers[0]:
            return False
        with self.database.connect() as connection:
            if parents.get_parent_state(connection, issued.shard, parent).removed:
                return False
            progress = shards.shard_progress(connection, issued.shard)
        return progress.position(parent.token) < issued.end
