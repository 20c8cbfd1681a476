"""A new epoch: how numbers stay unique when Redis restarts, is wiped, restored or replaced.

The authority is SQL. Whoever is refused because Redis is not in the life it says claims a new one: it
locks the shard's row, looks again, commits the next epoch in SQL, and only then writes it to Redis,
by a script that never lowers it. A claim does not touch the cursor: the first drain of an epoch reads
the log from its beginning and skips what is stored. After a claim no counter is verified, so each is
raised to what SQL holds before it gives another number (`counters`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from backend.domain.errors import Failed, Unavailable
from backend.domain.model import EntryId
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import EpochState, StaleEpoch

T = TypeVar("T")
LOCK_TIMEOUT_SECONDS = 3.0
MAX_ATTEMPTS = 20
RETRY_DELAY_SECONDS = 0.05
MAX_STALE_ATTEMPTS = 6  # of one operation, each after another new epoch


class Epochs:
    """What this process knows of each shard's life, and how it claims a new one. Thread-safe."""

    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database
        self._last_seen: dict[int, EntryId] = {}
        self._loaded = False
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether SQL was asked what it has passed: by `refresh`, or by the first `last_seen`."""
        return self._loaded

    def last_seen(self, shard: int) -> EntryId:
        """The highest log entry known to have been there: a Redis that is behind it is refused.

        A process begins with what SQL has passed, in all shards, so that an old copy of Redis can't
        fool one that has seen nothing yet; from then on it knows what it saw.
        """
        if not self._loaded:
            self.refresh()
        return self._last_seen[shard]

    def refresh(self) -> None:
        """Learn what SQL has passed by now, and which epochs others have claimed.

        Who accepts seldom and does so now and then is not fooled by a former primary. Raises EngineDown.
        """
        _ = self._database.installation  # so that who finds that this `is_loaded` needs no SQL
        with self._database.connect() as connection:
            states = shards.shard_states(connection)
        for number, (epoch, cursor) in states.items():
            self.observe(number, max(cursor, EntryId(epoch, 0)))
        self._loaded = True

    def observe(self, shard: int, end: EntryId) -> None:
        """Remember a shard's log's end."""
        with self._lock:
            self._last_seen[shard] = max(end, self._last_seen.get(shard, end))

    def read(self, shard: int) -> int:
        """A shard's epoch, as committed in SQL. Raises EngineDown."""
        with self._database.connect() as connection:
            epoch, _ = shards.shard_state(connection, shard)
        return epoch

    def retrying(self, shard: int, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns; if it raises StaleEpoch, begin a new epoch and call it again.

        `attempt` must be safe to repeat. If it needs the epoch, it calls `read`, so that each attempt has the
        current one. Raises Unavailable after six attempts, and what `attempt` and `begin_epoch` raise.
        """
        for _ in range(MAX_STALE_ATTEMPTS):
            try:
                return attempt()
            except StaleEpoch as stale:
                reason = stale.reason
                self.begin_epoch(shard, reason)
        raise Unavailable(
            f"shard {shard} of Redis changes its epoch again and again ({reason})",
            "see `instachat doctor`: is more than one Redis behind INSTACHAT_REDIS_URL?",
        )

    @contextmanager
    def renewed_on_stale(self, shard: int) -> Iterator[None]:
        """End a block that raises StaleEpoch without an error, having begun a new epoch.

        For loops that also repeat for other reasons; the other loops use `retrying`.
        """
        try:
            yield
        except StaleEpoch as stale:
            self.begin_epoch(shard, stale.reason)

    def begin_epoch(self, shard: int, reason: str) -> None:
        """Begin a new epoch of a shard, unless somebody else did since the caller was refused.

        Safe against any number of others doing the same. Raises EngineDown when either engine is
        away, Unavailable when the shard stays locked, Failed when this Redis holds the numbers of
        another installation.
        """
        epoch_before = self.read(shard)
        for _ in range(MAX_ATTEMPTS):
            state = self._log.probe(shard)
            if self._is_current(shard, state, epoch_before):
                return
            committed = self._commit_epoch(shard, epoch_before)
            if committed:
                self._log.set_epoch(shard, committed, self._database.installation.id)
                return
            # Another one has claimed and is about to write it; if it died, the claim is ours next.
            time.sleep(RETRY_DELAY_SECONDS)
            if self._log.probe(shard) == state:
                epoch_before = self.read(shard)
        raise Unavailable(
            f"shard {shard} of Redis is not usable yet ({reason})", "try again in a moment"
        )

    def _is_current(self, shard: int, state: EpochState, epoch_in_sql: int) -> bool:
        """Whether the refusal is over: a life of ours, as high as SQL's and as this process knows."""
        if state.installation and state.installation != self._database.installation.id:
            raise Failed(
                "this Redis holds the numbers of another installation (another database); "
                "nothing was changed",
                "check INSTACHAT_REDIS_URL and INSTACHAT_DATABASE_URL, or give this database an "
                "empty Redis",
            )
        end = EntryId(state.epoch, state.sequence)
        return state.status == "ok" and state.epoch == epoch_in_sql and end >= self.last_seen(shard)

    def _commit_epoch(self, shard: int, epoch_before: int) -> int | None:
        """Commit the next epoch; None if the epoch moved since, or the shard is locked."""
        with self._database.begin() as tx:
            locked = shards.lock_shard(tx, shard, wait_seconds=LOCK_TIMEOUT_SECONDS)
            if locked is None or locked.epoch != epoch_before:
                return None
            state = self._log.probe(shard)
            if self._is_current(shard, state, locked.epoch):
                return None
            # Above everything found here too: a database restored from a copy may be behind Redis.
            epoch = max(locked.epoch, state.highest, self.last_seen(shard).epoch) + 1
            shards.set_epoch(tx, shard, epoch)
        return epoch if self.read(shard) == epoch else None
