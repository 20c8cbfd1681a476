"""Waiting until SQL has passed a place of the log: until what was accepted before is stored or rejected."""

import time
from collections.abc import Callable

from backend.domain.errors import Unavailable
from backend.domain.model import EntryId
from backend.ingest.epochs import Epochs
from backend.ingest.local_drain import ShardDrainer
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log

BARRIER_TIMEOUT_SECONDS = 30.0  # a backlog of a million messages takes that long
POLL_SECONDS = 0.01


class Barrier:
    """Drains shards and waits until SQL has passed a place of their logs. Thread-safe."""

    def __init__(self, log: Log, database: Database, epochs: Epochs, drainer: ShardDrainer) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._drainer = drainer

    def wait_drained(self, shard: int, *, token: str | None = None) -> None:
        """Return once everything that was accepted in a shard before this call is decided in SQL.

        With a `token`, what that application accepted. Raises Unavailable if that takes longer than 30
        seconds, EngineDown when an engine is away.
        """
        _, end = self._epochs.retrying(shard, lambda: self._log.read_issued(shard, []))
        self.wait_through(shard, end, token=token)

    def wait_through(self, shard: int, end: EntryId, *, token: str | None = None) -> None:
        """Return once SQL has passed an entry of the log; raises as `wait_drained` does."""
        if not self.drain_through(shard, end, BARRIER_TIMEOUT_SECONDS, token=token):
            raise Unavailable(
                f"what was accepted before is not stored within {BARRIER_TIMEOUT_SECONDS:g} s",
                "see `instachat status`: is PostgreSQL slow, or the backlog long? Then try again",
            )

    def drain_through(
        self, shard: int, through: EntryId, seconds: float, *, token: str | None = None
    ) -> bool:
        """Drain until SQL has passed an entry; returns False if that takes longer than so many seconds."""
        return wait_cursor(
            self._database,
            shard,
            through,
            seconds,
            token=token,
            drain=lambda: self._drainer.drain(shard),
        )


def wait_cursor(
    database: Database,
    shard: int,
    through: EntryId,
    seconds: float,
    *,
    token: str | None = None,
    drain: Callable[[], int] = lambda: 0,
    may_continue: Callable[[], bool] = lambda: True,
) -> bool:
    """Wait until SQL has passed an entry of a shard's log; with a `token`, in what that application accepted.

    Returns False after so many seconds, or as soon as `may_continue` returns False. The position is read
    at least once, and again after each call of `drain`: at once if that returns how many entries it took,
    after 10 ms if it returns 0. Raises EngineDown when PostgreSQL is away, and what `drain` raises.
    """
    deadline = time.monotonic() + seconds
    while True:
        with database.connect() as connection:
            progress = shards.shard_progress(connection, shard)
        if progress.position(token) >= through:
            return True
        if time.monotonic() >= deadline or not may_continue():
            return False
        if not drain():
            time.sleep(POLL_SECONDS)
