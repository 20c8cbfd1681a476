"""Counter sync: writes the counters of Redis into the counter columns of SQL, which the counts are made of.

Redis keeps a set of dirty parents, those whose counter SQL does not know, each with the time of its first
unknown change: the accept script adds a parent as soon as its counter changes. A sync takes the oldest first,
reads the counters, raises SQL's columns (it never lowers them), commits, and only then removes a parent from
the set, if its counter still has the value that was written. So a sync may be interrupted anywhere, several
may run at once, and the next one takes what changes meanwhile. Its cost is proportional to the changes.

In a new epoch of Redis that set may be incomplete. SQL records the epoch in which everything was compared
last; in any other epoch a sync compares every counter first. It writes what a verified counter would say: the
higher one of `issued`, verified or not, and of the highest number that has a row.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.domain.errors import EngineDown, Unavailable
from backend.domain.model import EntryId, Parent
from backend.domain.shards_away import ShardsAway
from backend.ingest.epochs import Epochs
from backend.ingest.routing import Routing
from backend.storage.postgres import counter_columns, database, shards
from backend.storage.postgres.counter_columns import ParentCounters, RaisedCount, SyncState
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import StaleEpoch

PAGE = 1_000  # parents of one transaction, and of one call of Redis
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class WrittenCount:
    """A count that SQL did not know: its value before the sync, and after."""

    parent: Parent
    old: int
    new: int


class CounterSync:
    """Writes counters into SQL, and measures how far SQL is behind. Thread-safe.

    A page calls `step` with `read`, `written` and `released` as it reaches them, so that a test can end the
    process there.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        epochs: Epochs,
        routing: Routing,
        *,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._routing = routing
        self._step = step
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the current page finish, and begin no other."""
        self._stopping.set()

    def sync(self, *, everything: bool = False) -> Iterator[WrittenCount]:
        """Write what changed since the last sync, or compare every counter; yields each that was behind.

        After a new epoch of Redis it compares every counter. What was yielded is committed. Raises EngineDown
        when an engine is away, before anything is changed if it is away at the beginning. If a node of a
        cluster is away, NodeDown is raised once the counters of all other nodes are written.
        """
        for _ in range(ATTEMPTS):
            away = ShardsAway()
            try:
                yield from self._sync(everything, away)
            except StaleEpoch:
                continue
            if away:
                shards = len(self._database.installation.all_shards)
                raise away.error(shards, "their counts are not written")
            return
        raise Unavailable("Redis changes its epoch again and again", "see `instachat doctor`")

    def stored_message_count(self, token: str) -> int:
        """The sum of SQL's message counts over an application's chats, as of the last sync."""
        with self._database.connect() as connection:
            return counter_columns.sum_message_counts(connection, token)

    def lag(self) -> float:
        """The age in seconds of the oldest change that SQL does not know; 0 if there is none.

        After a new epoch of Redis that change cannot be known: then it is the time since the last sync. Of a
        cluster, this is the age in the shards whose nodes answer. Changes nothing. Raises EngineDown when an
        engine is away.
        """
        with self._database.connect() as connection:
            states = counter_columns.list_sync_states(connection)
        away = ShardsAway()
        lags = []
        for shard, state in states.items():
            if state.epoch:  # else nothing was ever accepted there
                with away.noting(shard):
                    lags.append(self._shard_lag(shard, state))
        if away and not lags:
            shards = len(self._database.installation.all_shards)
            raise away.error(shards, "it is not known how far SQL is behind")
        return max(lags, default=0.0)

    def _shard_lag(self, shard: int, state: SyncState) -> float:
        try:
            counters = self._log.read_counters(shard, state.epoch, [])
        except StaleEpoch:
            return state.behind_seconds
        lag = 0.0 if state.synced_epoch == state.epoch else state.behind_seconds
        if counters.oldest is None:
            return lag
        return max(lag, (counters.now - counters.oldest) / 1_000_000)

    def is_due(self, seconds: float) -> bool:
        """Whether the last sync of any shard is longer ago than that. Reads SQL only."""
        with self._database.connect() as connection:
            states = counter_columns.list_sync_states(connection).values()
        return any(state.epoch and state.behind_seconds > seconds for state in states)

    def _sync(self, everything: bool, away: ShardsAway) -> Iterator[WrittenCount]:
        epochs = self._current_epochs(away)
        with self._database.connect() as connection:
            began = database.read_clock(connection)
            states = counter_columns.list_sync_states(connection)
        if everything or any(states[shard].synced_epoch != epochs[shard] for shard in epochs):
            yield from self._compare_all(epochs, away)
        for shard, epoch in epochs.items():
            if shard not in away:
                with away.noting(shard):
                    yield from self._write_changes(shard, epoch)
        synced = {shard: epoch for shard, epoch in epochs.items() if shard not in away}
        if synced and not self._stopping.is_set():
            with self._database.begin() as tx:
                counter_columns.record_sync(tx, synced, began)

    def _current_epochs(self, away: ShardsAway) -> Mapping[int, int]:
        """The epoch of each shard that was ever used and is not away, the same in SQL and in Redis."""
        with self._database.connect() as connection:
            epochs = {
                s: epoch for s, (epoch, _) in shards.shard_states(connection).items() if epoch
            }
        self._log.ping()  # without any shard in use, nothing else would call Redis
        found: dict[int, int] = {}
        for shard, epoch in epochs.items():
            with away.noting(shard):
                found[shard] = self._current_epoch(shard, epoch)
        return found

    def _current_epoch(self, shard: int, epoch: int) -> int:
        for _ in range(ATTEMPTS):
            try:
                self._log.read_counters(shard, epoch, [])
                return epoch
            except StaleEpoch as stale:
                self._epochs.begin_epoch(shard, stale.reason)
                with self._database.connect() as connection:
                    epoch, _ = shards.shard_state(connection, shard)
        raise StaleEpoch("it changes again and again")

    def _compare_all(self, epochs: Mapping[int, int], away: ShardsAway) -> Iterator[WrittenCount]:
        """Compare the counter of every parent that is not removed."""
        for page_of in (
            counter_columns.page_application_counters,
            counter_columns.page_chat_counters,
        ):
            after = 0
            while not self._stopping.is_set():
                with self._database.connect() as connection:
                    page = page_of(connection, after, PAGE)
                    shard_of = self._routing.locate(connection, {row.token for row in page})
                by_shard: dict[int, list[ParentCounters]] = {}
                for row in page:
                    by_shard.setdefault(shard_of[row.token], []).append(row)
                for shard, rows in by_shard.items():
                    # A shard that came into use just now: its parents are in the set of dirty ones.
                    if shard in epochs and shard not in away:
                        known = {row.parent: row for row in rows}
                        with away.noting(shard):
                            yield from self._write(shard, epochs[shard], list(known), known)
                if len(page) < PAGE:
                    break
                after = page[-1].id

    def _write_changes(self, shard: int, epoch: int) -> Iterator[WrittenCount]:
        """Write what changed before now; what cannot be written yet is skipped, and stays dirty."""
        now = self._log.read_counters(shard, epoch, []).now
        # Redis's clock may have been ahead when a parent changed.
        began = max(now, self._log.newest_change(shard))
        passed = 0
        while not self._stopping.is_set():
            parents = self._log.dirty_page(shard, began, passed, PAGE)
            if not parents:
                return
            with self._database.connect() as connection:
                known = counter_columns.list_parent_counters(connection, parents)
            passed += yield from self._write(shard, epoch, parents, known, began)

    def _write(
        self,
        shard: int,
        epoch: int,
        parents: Sequence[Parent],
        known: Mapping[Parent, ParentCounters],
        began: int = 0,
    ) -> Generator[WrittenCount, None, int]:
        """Write some counters of one shard, and remove from the set the parents whose count SQL knows now.

        Returns how many parents stay for the next sync: they are accepted, and not stored yet.
        """
        counters = self._log.read_counters(shard, epoch, parents)
        self._step("read")
        issued = dict(zip(parents, counters.issued, strict=True))
        behind = {
            row.parent: (row.id, number)
            for row in known.values()
            if row.alive and (number := max(issued[row.parent] or 0, row.highest)) > row.issued
        }
        yield from self._raise({p: v for p, v in behind.items() if p.chat is None})
        yield from self._raise({p: v for p, v in behind.items() if p.chat is not None})
        self._step("written")
        kept = self._still_pending(shard, [p for p in parents if p not in known], counters.end)
        # A clock that is set back must not make this sync read the same parents again.
        since = max(counters.now, began + 1)
        self._log.ack_synced(shard, epoch, {p: issued[p] for p in parents if p not in kept}, since)
        self._step("released")
        return len(kept)

    def _raise(self, behind: Mapping[Parent, tuple[int, int]]) -> Iterator[WrittenCount]:
        if not behind:
            return
        of_applications = next(iter(behind)).chat is None
        raise_ = (
            counter_columns.raise_application_counters
            if of_applications
            else counter_columns.raise_chat_counters
        )
        raised: Mapping[int, RaisedCount] = {}
        for left in reversed(range(ATTEMPTS)):
            try:
                with self._database.begin() as tx:
                    raised = raise_(tx, dict(behind.values()))
                break
            except EngineDown:
                raise
            except Unavailable:
                # A deadlock with a drain that counts rejected messages of the same chats.
                if not left:
                    raise
        for parent, (id_, _) in behind.items():
            if id_ in raised:
                yield WrittenCount(parent, raised[id_].before, raised[id_].after)

    def _still_pending(self, shard: int, missing: Sequence[Parent], end: EntryId) -> set[Parent]:
        """Those without a row that may get one later, or have just got one."""
        if not missing:
            return set()
        with self._database.connect() as connection:
            _, cursor = shards.shard_state(connection, shard)
            return set(
                missing
                if cursor < end
                else counter_columns.list_parent_counters(connection, missing)
            )
