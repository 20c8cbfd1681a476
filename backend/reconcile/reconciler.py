"""Reconcile: do Redis, SQL and the index say the same, key by key? What does not is a `Finding`.

It runs under full load, while engines and processes are killed, and finds nothing that is not there:

1. **Settle.** For each shard the log's end is noted, and waited for until SQL has passed it.
2. **Compare.** One snapshot of SQL is walked in the order of its keys: applications and chats beside their
   counters in Redis, messages beside the documents of the index. Redis, which has no order, is walked once
   more by itself, for counters that nobody has a row for. Numbers are unique under their parent by an
   index of SQL's, so as many rows as the highest number leave no gap: that comparison misses nothing.
3. **Confirm.** Whatever differs may just be on its way. So each difference is looked at again, with point
   reads, after all that was given by then is decided. Only what still differs is a finding.
4. **Repair**, if asked to (`repair`): each finding right after it was found.

Memory does not grow with what is stored: all is read in pages, and told as it is found.

The kinds between Redis and SQL are in `findings`, those of the index in `documents`. Besides there is the
`orphan`: a message's row whose chat has none (by hand only; repair keeps it as a dead letter), or a counter
that is nobody's (`orphan_counters`).

A dry run writes nothing anywhere: it does not drain and claims no life of Redis. Where no worker stores
what is accepted, it takes numbers above the rows' highest for pending.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from backend.domain.errors import Unavailable
from backend.domain.model import EntryId, Parent, checked_token, no_application, shard_of
from backend.ingest.barrier import Barrier
from backend.reconcile.documents import DocumentReconciler
from backend.reconcile.findings import (
    Finding,
    ReconcileSummary,
    compare_parent,
    highest_issued,
    is_suspect,
)
from backend.reconcile.orphan_counters import find_orphan_counters
from backend.reconcile.repair import Repairer
from backend.storage.postgres import (
    applications,
    child_statistics,
    locks,
    orphans,
    reconciliations,
    shards,
)
from backend.storage.postgres.child_statistics import ChildStatistics
from backend.storage.postgres.database import Connection, Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import CounterState

PARENTS_PER_BATCH = 500  # parents that are looked up, or confirmed, together
MAX_ATTEMPTS = 5
DRY_RUN_TIMEOUT_SECONDS = 5.0  # of a dry run, for a worker to store what is accepted
DIRECT_WRITE_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.02


class Reconciler:
    """Begins reconciliations. Thread-safe."""

    def __init__(
        self,
        log: Log,
        database: Database,
        barrier: Barrier,
        repairer: Repairer,
        documents: DocumentReconciler | None,
    ) -> None:
        """Without `documents` the index is left out."""
        self._log = log
        self._database = database
        self._barrier = barrier
        self._documents = documents
        self._repairer = repairer

    def begin(
        self, token: str | None = None, *, repair: bool = False, dry_run: bool = False
    ) -> "Reconciliation":
        """A comparison of everything, or of one application.

        With `repair` each finding that can be is repaired, unless it is a dry run.
        """
        repairer = self._repairer if repair and not dry_run else None
        return Reconciliation(
            self._log,
            self._database,
            self._barrier,
            self._documents,
            repairer,
            token,
            dry_run=dry_run,
        )


class Reconciliation:
    """One comparison. Of one thread; `summary` is whole once all findings were taken."""

    def __init__(
        self,
        log: Log,
        database: Database,
        barrier: Barrier,
        documents: DocumentReconciler | None,
        repairer: Repairer | None,
        token: str | None,
        *,
        dry_run: bool,
    ) -> None:
        self.summary = ReconcileSummary()
        self._log = log
        self._database = database
        self._barrier = barrier
        self._documents = documents
        self._repairer = repairer
        self._token = token
        self._dry_run = dry_run
        self._shards = database.installation.shards

    def count_keys(self) -> int:
        """About how many keys there are to compare, for a progress bar."""
        with self._database.connect() as connection:
            return child_statistics.count_keys(
                connection, self._token, documents=self._documents is not None
            )

    def findings(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[Finding]:
        """Compare, and repair; `progress` is told how many keys were compared so far.

        Raises NotFound if there is no such application; EngineDown when an engine is away;
        Unavailable if what is accepted can't be stored in time. What was found before stays true.
        """
        started = time.monotonic()
        for finding in self._compare(progress):
            self.summary.findings += 1
            self.summary.repaired += finding.repairable and self._repairer is not None
            yield finding
        if self._token is None and not self._dry_run:
            seconds = time.monotonic() - started
            with self._database.begin() as tx:
                reconciliations.record(tx, seconds, self.summary.findings, self.summary.repaired)

    def _compare(self, progress: Callable[[int], None]) -> Iterator[Finding]:
        token = self._token
        wanted = range(self._shards) if token is None else [self._shard_of(checked_token(token))]
        for shard in wanted:
            self._wait_drained(shard)
        with self._database.snapshot() as snapshot:
            if token is not None and applications.get_application(snapshot, token) is None:
                raise no_application()
            yield from self._compare_parents(snapshot, progress)
            if self._documents is not None:
                yield from self._documents.compare(
                    snapshot,
                    token,
                    self.summary,
                    lambda: progress(self._compared_keys),
                    repair=self._repairer is not None,
                )
            if token is None:
                yield from self._find_orphans(snapshot)
        yield from find_orphan_counters(
            self._log, self._database, self._wait_drained, self._repairer, token, self._shards
        )

    @property
    def _compared_keys(self) -> int:
        found = self.summary
        return found.applications + found.chats + found.messages + (found.documents or 0)

    # -- parents: rows beside counters -----------------------------------------------------------------

    def _compare_parents(
        self, snapshot: Connection, progress: Callable[[int], None]
    ) -> Iterator[Finding]:
        suspects: list[Parent] = []
        rows = child_statistics.iter_statistics(snapshot, self._token)
        while page := {row.parent: row for row in islice(rows, PARENTS_PER_BATCH)}:
            for parent, counter in self._read_counters(list(page)).items():
                children = page[parent]
                self.summary.count(parent, children)
                self.summary.pending += max((counter.issued or 0) - children.highest, 0)
                if is_suspect(children, counter):
                    suspects.append(parent)
            progress(self._compared_keys)
            if len(suspects) >= PARENTS_PER_BATCH:
                yield from self._confirm_parents(suspects)
                suspects = []
        yield from self._confirm_parents(suspects)

    def _read_counters(self, parents: Sequence[Parent]) -> dict[Parent, CounterState]:
        """The counters as they are now, one call a shard."""
        found: dict[Parent, CounterState] = {}
        for shard, mine in self._group_by_shard(parents).items():
            found |= zip(mine, self._log.inspect(shard, mine)[0], strict=True)
        return found

    def _confirm_parents(self, parents: Sequence[Parent]) -> Iterator[Finding]:
        for shard, mine in self._group_by_shard(parents).items():
            yield from self._confirm_in_shard(shard, mine)

    def _confirm_in_shard(self, shard: int, parents: Sequence[Parent]) -> Iterator[Finding]:
        """Look at suspects once more, in one life of Redis and behind all that was given by then."""
        for _ in range(MAX_ATTEMPTS):
            before, end = self._log.inspect(shard, parents)
            settled = self._wait_drained(shard, end)
            with self._without_direct_writes(shard) as connection:
                found = child_statistics.find_statistics(connection, parents)
            after, end_after = self._log.inspect(shard, parents)
            if end_after.epoch == end.epoch:
                break
        else:
            raise Unavailable("Redis changes its epoch again and again", "see `instachat doctor`")
        for parent, given, counter in zip(parents, before, after, strict=True):
            if (children := found.get(parent)) is not None:  # else it was deleted meanwhile
                yield from self._report_parent(
                    parent, children, given if settled else None, counter
                )

    def _report_parent(
        self,
        parent: Parent,
        children: ChildStatistics,
        given: CounterState | None,
        counter: CounterState,
    ) -> Iterator[Finding]:
        """The findings of one parent, which is repaired once all of them are told."""
        decided = (given and given.issued) or 0
        self.summary.pending -= max(decided - children.highest, 0)  # it has been waited for in vain
        repairable = False
        with self._database.snapshot() as connection:
            gaps = (
                child_statistics.find_gaps(connection, parent, children.highest)
                if children.rows < children.highest
                else ()
            )
            for finding in compare_parent(parent, children, decided, counter, gaps):
                repairable = finding.repairable
                yield finding
        if repairable and self._repairer is not None:
            self._repairer.repair_parent(parent, highest_issued(children, decided, counter))

    # -- what has no parent ----------------------------------------------------------------------------

    def _find_orphans(self, snapshot: Connection) -> Iterator[Finding]:
        rows = orphans.iter_orphans(snapshot)
        while page := list(islice(rows, PARENTS_PER_BATCH)):
            with self._database.connect() as connection:
                page = orphans.filter_orphans(connection, page)
            for orphan in page:
                yield Finding(
                    "orphan", None, None, orphan.number, "a message whose chat does not exist", True
                )
            if page and self._repairer is not None:
                self._repairer.dead_letter_orphans(page)

    # -- waiting ---------------------------------------------------------------------------------------

    def _wait_drained(self, shard: int, end: EntryId | None = None) -> bool:
        """Have everything decided that is in the log up to an entry, or now; False in a dry run that can't.

        An end of `0-0` is that of a Redis without a life.
        """
        if not self._dry_run:
            if end is None or not end.epoch:
                self._barrier.wait_drained(shard)
            else:
                self._barrier.wait_through(shard, end)
            return True
        end = end or self._log.inspect(shard, [])[1]
        deadline = time.monotonic() + DRY_RUN_TIMEOUT_SECONDS
        while end.epoch:
            with self._database.connect() as connection:
                _, cursor = shards.shard_state(connection, shard)
            if cursor >= end:
                return True
            if time.monotonic() > deadline or not self._log.count_workers():
                break
            time.sleep(POLL_SECONDS)
        return False

    @contextmanager
    def _without_direct_writes(self, shard: int) -> Iterator[Connection]:
        """A moment in which nobody who writes past the log has numbers in hand that are not stored."""
        deadline = time.monotonic() + DIRECT_WRITE_TIMEOUT_SECONDS
        while True:
            with self._database.begin() as tx:
                if locks.try_exclude_reservations(tx, shard):
                    yield tx
                    return
            if time.monotonic() > deadline:
                raise Unavailable(
                    "an import holds numbers and does not store them", "try again once it has ended"
                )
            time.sleep(POLL_SECONDS)

    # -- shards ----------------------------------------------------------------------------------------

    def _shard_of(self, token: str) -> int:
        return shard_of(token, self._shards)

    def _group_by_shard(self, parents: Iterable[Parent]) -> dict[int, list[Parent]]:
        found: dict[int, list[Parent]] = {}
        for parent in parents:
            found.setdefault(self._shard_of(parent.token), []).append(parent)
        return found
