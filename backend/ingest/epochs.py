"""Epochs: how numbers stay unique when Redis restarts, is wiped, restored or replaced.

SQL is the authority. A process that Redis refuses because it is not in the expected epoch begins a new one:
it locks the shard's row, checks again, commits the next epoch in SQL, and only then writes it to Redis by a
script that never lowers it. It does so only in a Redis that it recognises (see `recognition`).

The cursor does not move: the first drain of an epoch reads after the last entry of this Redis's log that
was stored, and skips what is stored. No counter is verified in the new epoch, so each is raised to the
highest number in SQL before it issues another (see `counters`).

A new epoch also begins if SQL has gone back in time: its cursor is before what Redis notes as stored. All
that was verified against what SQL has forgotten is then verified again, and the drain stores it once more.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from backend.domain.errors import Unavailable
from backend.domain.model import EntryId
from backend.ingest.recognition import RedisRecognition
from backend.storage.postgres import chats, shards
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.shards import ShardState
from backend.storage.redis.log import Log
from backend.storage.redis.types import EpochState, StaleEpoch

T = TypeVar("T")
logger = logging.getLogger(__name__)
LOCK_TIMEOUT_SECONDS = 3.0
MAX_ATTEMPTS = 20
RETRY_DELAY_SECONDS = 0.05
MAX_STALE_ATTEMPTS = 6  # of one operation, each after another new epoch


class Epochs:
    """What this process knows about each shard's epoch, and how it begins a new one. Thread-safe."""

    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database
        self.recognition = RedisRecognition(log, database)
        self._last_seen: dict[int, EntryId] = {}
        self.overdue: frozenset[str] = frozenset()
        """Deferred applications whose shards' backlogs took half of the log's limit at the last `refresh`.

        Nothing is accepted for these tokens, so that the others find room.
        """
        self._loaded = False
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the cursors were read from SQL, by `refresh` or by the first `last_seen`."""
        return self._loaded

    def last_seen(self, shard: int) -> EntryId:
        """The highest entry of a shard's log that this process knows: a Redis that is behind it is stale.

        A new process starts with the cursors of all shards in SQL, so that it rejects an old copy of Redis
        before it has seen any entry itself.
        """
        if not self._loaded or shard not in self._last_seen:  # a shard that was added since
            self.refresh()
        return self._last_seen[shard]

    def refresh(self) -> None:
        """Read the cursors and the epochs of all shards from SQL.

        Call this periodically, so that an idle process still rejects a demoted primary. Raises EngineDown.
        """
        _ = self._database.installation  # cached, so that nothing needs SQL once this `is_loaded`
        with self._database.connect() as connection:
            states = shards.shard_states(connection)
            progress = shards.all_progress(connection)
        self._raise_last_seen(
            (number, max(cursor, EntryId(epoch, 0))) for number, (epoch, cursor) in states.items()
        )
        self._loaded = True
        self.overdue = frozenset(
            token
            for number, (cursor, _, deferred) in progress.items()
            if deferred
            and self._last_seen[number].sequence - cursor.sequence > self._log.max_entries // 2
            for token in deferred
        )

    def observe(self, shard: int, end: EntryId) -> None:
        """Remember the end of a shard's log, as Redis has it."""
        self.observe_each([(shard, end)])

    def observe_each(self, ends: Sequence[tuple[int, EntryId]]) -> None:
        """As `observe`, for many shards: the lock takes longer than all that is done for one of them."""
        if ends:
            self.recognition.is_known = True
            self._raise_last_seen(ends)

    def _raise_last_seen(self, ends: Iterable[tuple[int, EntryId]]) -> None:
        last_seen = self._last_seen
        with self._lock:
            for shard, end in ends:  # `max` would take as long as the rest
                known = last_seen.get(shard)
                if known is None or end > known:
                    last_seen[shard] = end

    def read(self, shard: int) -> int:
        """A shard's epoch, as committed in SQL. Raises EngineDown."""
        return self._read_state(shard).epoch

    def _read_state(self, shard: int) -> ShardState:
        with self._database.connect() as connection:
            return shards.shard_state(connection, shard)

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
        """Begin a new epoch of a shard, unless another process has done so since Redis refused the caller.

        Safe to call in any number of processes at once. Raises EngineDown if an engine is away, Unavailable
        if the shard stays locked, WrongRedis if this Redis is not the installation's.
        """
        epoch_before = self.read(shard)
        for _ in range(MAX_ATTEMPTS):
            state = self._log.probe(shard)
            # Read after Redis: an entry is stored before Redis is told.
            if self._is_current(shard, state, self._read_state(shard)._replace(epoch=epoch_before)):
                return
            committed = self._commit_epoch(shard, epoch_before)
            if committed:
                epoch, cursor = committed
                self._log.set_epoch(shard, epoch, self._database.installation.id, cursor)
                return
            # Another process has committed an epoch and not written it yet. If it died, the next attempt
            # begins one.
            time.sleep(RETRY_DELAY_SECONDS)
            if self._log.probe(shard) == state:
                epoch_before = self.read(shard)
        raise Unavailable(
            f"shard {shard} of Redis is not usable yet ({reason})", "try again in a moment"
        )

    def renew(self, shard: int) -> None:
        """Begin a new epoch of a shard in any case, so that each of its counters is verified again.

        Raises EngineDown, WrongRedis, and Unavailable if the shard stays locked.
        """
        for _ in range(MAX_ATTEMPTS):
            with self._database.begin() as tx:
                locked = shards.lock_shard(tx, shard, wait_seconds=LOCK_TIMEOUT_SECONDS)
                if locked is None:
                    continue
                state = self._log.probe(shard)
                self.recognition.check(state)
                in_sql = ShardState(locked.epoch, locked.cursor)
                if _is_rewound(state, in_sql):
                    self._record_rewind(tx, shard, state, in_sql)
                epoch = max(locked.epoch, state.highest, self.last_seen(shard).epoch) + 1
                shards.set_epoch(tx, shard, epoch, state.server)
            self._log.set_epoch(shard, epoch, self._database.installation.id, locked.cursor)
            return
        raise Unavailable(f"shard {shard} stays locked", "see `instachat status`, then try again")

    def adopt(self) -> None:
        """Begin an epoch of each shard in this Redis, which an operator says is the right one.

        Nothing changes in shards that it is current in. Safe to repeat. Raises as `begin_epoch`.
        """
        self.recognition.adopt()
        for shard in self._database.installation.all_shards:
            self.begin_epoch(shard, "adopted")

    def _is_current(self, shard: int, state: EpochState, in_sql: ShardState) -> bool:
        """Whether Redis is in SQL's epoch, with all entries known here, and SQL has not gone back.

        Raises WrongRedis if it is not this installation's.
        """
        self.recognition.check(state)
        end = EntryId(state.epoch, state.sequence)
        return (
            state.status == "ok"
            and state.epoch == in_sql.epoch
            and end >= self.last_seen(shard)
            and not _is_rewound(state, in_sql)
        )

    def _commit_epoch(self, shard: int, epoch_before: int) -> ShardState | None:
        """Commit the next epoch; None if the epoch has changed, or the shard is locked."""
        with self._database.begin(repeatable=True) as tx:
            locked = shards.lock_shard(tx, shard, wait_seconds=LOCK_TIMEOUT_SECONDS)
            if locked is None or locked.epoch != epoch_before:
                return None
            state = self._log.probe(shard)
            in_sql = ShardState(locked.epoch, locked.cursor)
            if self._is_current(shard, state, in_sql):
                return None
            # Also above every epoch in Redis: a database restored from a backup may be behind it.
            epoch = max(locked.epoch, state.highest, self.last_seen(shard).epoch) + 1
            shards.set_epoch(tx, shard, epoch, state.server)
            if _is_rewound(state, in_sql):
                self._record_rewind(tx, shard, state, in_sql)
        return ShardState(epoch, locked.cursor) if self.read(shard) == epoch else None

    def _record_rewind(
        self, tx: Connection, shard: int, state: EpochState, in_sql: ShardState
    ) -> None:
        logger.error(
            "shard %d: PostgreSQL has gone back in time, to entry %s; Redis knows that it had stored %s",
            shard,
            in_sql.cursor,
            state.stored,
        )
        shards.record_rewind(tx, shard)
        # Ids that it has forgotten are still known elsewhere: to followers, and to the search index.
        chats.skip_ids(tx)


def _is_rewound(state: EpochState, in_sql: ShardState) -> bool:
    """Whether SQL has forgotten what it had stored, as Redis knows: an entry, or an epoch."""
    return state.stored > in_sql.cursor or state.epoch > in_sql.epoch
