"""Reshard: moves applications to other shards, one at a time, while everything runs.

An application is closed from the moment in which its move is in the log of its shard until the drain of that
log has passed it, in the transaction that places the application in the other shard (ADR 0015). Everything
else follows from SQL: the counters of the other shard begin with the rows' highest numbers.

A move that was requested is decided by any drain, whatever becomes of the process that requested it. What a
killed process has not requested, the next one does: SQL says where each application is.

What a move leaves behind, the mark in Redis and the shards that SQL names as left, is needed for a day: by
requests with an idempotency key, and by a PostgreSQL that goes back in time. A later reshard removes it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from backend.domain.errors import (
    Closing,
    Conflict,
    InstaChatError,
    Invalid,
    NotFound,
    Unavailable,
)
from backend.domain.model import Parent, checked_token, no_application, shard_of
from backend.ingest.accept import Acceptor
from backend.ingest.barrier import Barrier
from backend.ingest.counters import Counters
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest
from backend.ingest.routing import LEFT_SHARD_SECONDS, Routing
from backend.storage.postgres import applications, counter_columns, leases, placements
from backend.storage.postgres.database import Database
from backend.storage.postgres.leases import Lease, LeaseHeld, LeaseLost
from backend.storage.postgres.placements import PlacementRow, ShardRange
from backend.storage.postgres.schema import raise_compatible_since
from backend.storage.redis.keys import FIRST_SPREAD_SHARD
from backend.storage.redis.log import Log

MAX_SHARDS = 1_024
FIRST_OWN_SHARD = 2_048  # of one application alone
LAST_SHARD = 32_767  # SQL's smallint
MAX_ATTEMPTS = 5
CHATS_PER_CALL = 1_000
COUNT_INTERVAL_SECONDS = 1.0

Progress = Callable[[int, int], object]
Step = Callable[[str], None]


class ReshardResult(NamedTuple):
    """How many shards tokens are hashed over now, and how many applications were moved for that.

    `forgotten` applications had moved so long ago that nothing refers to the shards that they had left.
    """

    shards: int
    moved: int
    forgotten: int


class ReshardPlan(NamedTuple):
    """How many shards there are, and how many of the applications another number of shards would move."""

    shards: int
    applications: int
    to_move: int


class Resharder:
    """Moves applications to other shards. Thread-safe; one process at a time.

    A move calls `step` with `requested`, `decided` and `cleared` as it reaches them, so that a test can end
    the process there.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        epochs: Epochs,
        routing: Routing,
        counters: Counters,
        barrier: Barrier,
        acceptor: Acceptor,
        *,
        forget_after_seconds: float = LEFT_SHARD_SECONDS,
        step: Step = lambda _: None,
    ) -> None:
        """Moves are forgotten after that time, and after the log's retention."""
        self._log = log
        self._database = database
        self._epochs = epochs
        self._routing = routing
        self._counters = counters
        self._barrier = barrier
        self._acceptor = acceptor
        self._forget_after_seconds = max(forget_after_seconds, log.retention_seconds)
        self._step = step
        self._renewed: set[int] = set()
        self._lock = threading.Lock()

    def plan(self, count: int) -> ReshardPlan:
        """What `reshard` would do. Writes nothing."""
        target = _range_of(count)
        shards = self._database.refresh_installation().shards
        found = to_move = 0
        for row in self._all_placements():
            found += 1
            to_move += self._target_of(row, target) != self._shard_of(row)
        return ReshardPlan(len(shards), found, to_move)

    def reshard(self, count: int, progress: Progress = lambda *_: None) -> ReshardResult:
        """Spread the applications over that many shards, but for those that have a shard of their own.

        Resumable: what an earlier call has moved stays where it is. `progress` is called with how many
        applications are where they belong, and how many there are, about. Forgets moves of long ago.

        Raises Invalid for an impossible count; Conflict if another process is at it; Unavailable if what is
        accepted can't be stored in time; EngineDown if an engine is away.
        """
        target = _range_of(count)
        moved = 0
        with self._exclusively() as lease:
            with self._database.begin(repeatable=True) as tx:
                lease.confirm(tx)
                raise_compatible_since(tx, placements.RESHARD_SCHEMA)
                placements.add_shards(tx, target.shards)
                placements.set_target(tx, target)
            self._database.refresh_installation()
            self._clear_all_left()
            forgotten = self._forget_moves(lease)
            plan = self.plan(count)
            with self._counting(plan.to_move) as record_move:
                while True:
                    moved_before = moved
                    for done, row in enumerate(self._all_placements(), 1):
                        lease.raise_if_lost()
                        if self._move(row, self._target_of(row, target)):
                            moved += 1
                            record_move()
                        progress(done, max(done, plan.applications))
                    if moved == moved_before:  # none was created meanwhile
                        break
            with self._database.begin(repeatable=True) as tx:
                lease.confirm(tx)
                placements.finish_reshard(tx, target)
            self._routing.refresh()
        return ReshardResult(count, moved, forgotten)

    def separate(self, token: str) -> bool:
        """Move an application to a shard of its own; returns False if it has one already.

        Raises as `reshard`, and NotFound.
        """
        checked_token(token)
        with self._exclusively() as lease:
            row = self._existing_placement(token)
            if self._shard_of(row) >= FIRST_OWN_SHARD:
                return False
            with self._database.begin(repeatable=True) as tx:
                lease.confirm(tx)
                raise_compatible_since(tx, placements.RESHARD_SCHEMA)
                shard = max(placements.reshard_state(tx).highest_shard + 1, FIRST_OWN_SHARD)
                if shard > LAST_SHARD:
                    raise Unavailable("there are no numbers of shards left")
                placements.add_shards(tx, [shard])
            self._database.refresh_installation()
            self._clear_all_left()
            return self._move(row, shard)

    def rejoin(self, token: str) -> bool:
        """Move an application back from a shard of its own; returns False if it has none.

        It comes to the shard that its token's hash names, also among those that a reshard under way moves
        to. Raises as `separate`.
        """
        checked_token(token)
        with self._exclusively():
            row = self._existing_placement(token)
            if self._shard_of(row) < FIRST_OWN_SHARD:
                return False
            hashed = self._database.refresh_installation().shards
            with self._database.connect() as connection:
                target = placements.reshard_state(connection).target
            self._clear_all_left()
            return self._move(row, shard_of(token, target.shards if target else hashed))

    # -- one application ---------------------------------------------------------------------------

    def _move(self, row: PlacementRow, target: int) -> bool:
        """Move an application, unless it is there; returns whether it was moved."""
        if self._shard_of(row) == target:
            return False
        for _ in range(MAX_ATTEMPTS):
            origin = self._shard_of(row)
            if origin == target:
                return True
            self._forget_earlier_stay(row, target)
            self._counters.read_log_end(target)  # begins its first epoch before anyone needs it
            # So that the application is closed only while what comes meanwhile is stored.
            self._barrier.wait_drained(origin, token=row.token)
            try:
                accepted = self._acceptor.accept(
                    AcceptRequest.move(row.token, target, row.moves + 1)
                )
                self._step("requested")
                self._barrier.wait_through(accepted.shard, accepted.entry, token=row.token)
            except NotFound:  # it was deleted meanwhile
                return False
            except Closing:  # its deletion is being decided
                continue
            self._step("decided")
            self._routing.learn(row.token)
            row = self._placement(row.token)
            if self._shard_of(row) != origin:  # otherwise Redis has lost the move
                with suppress(NotFound):  # it was deleted meanwhile
                    self._counters.verify(Parent(row.token))
                self._clear_left(row)
                self._step("cleared")
        if self._shard_of(row) == target:
            return True
        raise Unavailable(
            "an application is being deleted, or Redis loses its moves again and again",
            "see `instachat status`; then the same command continues",
        )

    def _forget_earlier_stay(self, row: PlacementRow, target: int) -> None:
        """Make sure that no counter of an earlier time in a shard is used again, nor made by a late call.

        A new epoch has all counters of that shard verified again; one serves all applications of this run
        that come back to it.
        """
        if target not in row.moved_from:
            return
        if target not in self._renewed:
            self._epochs.renew(target)
            self._renewed.add(target)
        self._log.drop_counters(target, [Parent(row.token)])

    def _forget_moves(self, lease: Lease) -> int:
        """Delete the marks of moves that nothing refers to any longer; returns of how many applications.

        A call that was suspended since before a move could make a counter where the mark was. So a new epoch
        of that shard, which refuses it, begins first.
        """
        forgotten = 0
        renewed: set[int] = set()
        with self._database.connect() as connection:
            rows = placements.list_moved_before(connection, self._forget_after_seconds)
        while rows:
            lease.raise_if_lost()
            for shard, tokens in _by_left_shard(rows).items():
                if shard not in renewed:
                    self._epochs.renew(shard)
                    renewed.add(shard)
                self._log.drop_counters(shard, [Parent(token) for token in tokens])
            with self._database.begin() as tx:
                lease.confirm(tx)
                placements.forget_moves(tx, rows)
            forgotten += len(rows)
            with self._database.connect() as connection:
                rows = placements.list_moved_before(connection, self._forget_after_seconds)
        return forgotten

    def _clear_all_left(self) -> None:
        while True:
            with self._database.connect() as connection:
                rows = placements.list_counters_left(connection)
            for row in rows:
                self._clear_left(row)
            if not rows:
                return

    def _clear_left(self, row: PlacementRow) -> None:
        """Delete an application's counters in the shard that it has left last, once SQL has their counts.

        The application's own counter stays: it says that the application has left.
        """
        origin = row.moved_from[-1]
        self._epochs.retrying(origin, lambda: self._clear_chats(origin, row.token))
        with self._database.begin(durable=False) as tx:
            placements.clear_counters_left(tx, row.token, row.moves)

    def _clear_chats(self, shard: int, token: str) -> None:
        epoch = self._epochs.read(shard)
        self._write_counts(shard, epoch, [Parent(token)])
        after = 0
        while True:
            with self._database.connect() as connection:
                numbers = placements.page_chat_numbers(connection, token, after, CHATS_PER_CALL)
            if not numbers:
                return
            chats = [Parent(token, number) for number in numbers]
            self._write_counts(shard, epoch, chats)
            self._log.drop_counters(shard, chats)
            after = numbers[-1]

    def _write_counts(self, shard: int, epoch: int, parents: list[Parent]) -> None:
        """Write counters of a shard that was left into SQL's columns: no sync looks for them there."""
        issued = self._log.read_counters(shard, epoch, parents).issued
        with self._database.begin(repeatable=True) as tx:
            known = counter_columns.list_parent_counters(tx, parents)
            behind = {
                known[parent].id: number
                for parent, number in zip(parents, issued, strict=True)
                if number is not None and parent in known and number > known[parent].issued
            }
            if behind and parents[0].chat is None:
                counter_columns.raise_application_counters(tx, behind)
            elif behind:
                counter_columns.raise_chat_counters(tx, behind)

    # -- all of them -------------------------------------------------------------------------------

    @contextmanager
    def _exclusively(self) -> Iterator[Lease]:
        try:
            with self._lock, leases.hold(self._database, placements.RESHARD_LEASE) as lease:
                self._renewed.clear()
                yield lease
        except LeaseHeld as error:
            raise Conflict(
                f"{error.holder.name} moves applications since {error.holder.since:%H:%M:%S}",
                "wait until it has ended",
            ) from None
        except LeaseLost:
            raise Unavailable(
                "this process was suspended for so long that another one may move applications now",
                "the same command continues",
            ) from None

    @contextmanager
    def _counting(self, to_move: int) -> Iterator[Callable[[], None]]:
        """A function that counts a move; SQL is told how many are left once a second, and at the end."""
        left, recorded_at = to_move, time.monotonic()
        self._record_to_move(left)

        def record_move() -> None:
            nonlocal left, recorded_at
            left = max(left - 1, 0)
            if time.monotonic() - recorded_at > COUNT_INTERVAL_SECONDS:
                recorded_at = time.monotonic()
                self._record_to_move(left)

        try:
            yield record_move
        finally:
            with suppress(InstaChatError):  # the caller knows of a PostgreSQL that is away
                self._record_to_move(left)

    def _record_to_move(self, count: int) -> None:
        with self._database.begin(durable=False) as tx:
            placements.record_to_move(tx, count)

    def _all_placements(self) -> Iterator[PlacementRow]:
        """Of all applications that are not removed, those created meanwhile included."""
        after = 0
        while True:
            with self._database.connect() as connection:
                page = placements.page_placements(connection, after)
            yield from page
            if len(page) < placements.PAGE:
                return
            after = page[-1].id

    def _existing_placement(self, token: str) -> PlacementRow:
        with self._database.connect() as connection:
            if applications.get_application(connection, token) is None:
                raise no_application()
        return self._placement(token)

    def _placement(self, token: str) -> PlacementRow:
        with self._database.connect() as connection:
            return placements.find_placements(connection, [token])[token]

    def _shard_of(self, row: PlacementRow) -> int:
        return self._routing.resolve(row.token, row.shard)

    def _target_of(self, row: PlacementRow, target: ShardRange) -> int:
        current = self._shard_of(row)
        return current if current >= FIRST_OWN_SHARD else shard_of(row.token, target.shards)


def _range_of(count: int) -> ShardRange:
    """The shards of an installation that has so many; masters have an even share of any first ones."""
    if not 1 <= count <= MAX_SHARDS:
        raise Invalid(f"an installation has 1 to {MAX_SHARDS:,} shards, not {count:,}")
    return ShardRange(FIRST_SPREAD_SHARD, count)


def _by_left_shard(rows: Iterable[PlacementRow]) -> dict[int, list[str]]:
    """The tokens of applications by each shard that they have left; not that in which they are now."""
    found: dict[int, list[str]] = {}
    for row in rows:
        for shard in {*row.moved_from} - {row.shard}:
            found.setdefault(shard, []).append(row.token)
    return found
