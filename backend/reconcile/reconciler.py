"""Reconciles the stores: compares Redis, SQL and the index key by key, and names each difference.

A reconciliation may run under full load, while engines and processes are killed, and reports no difference
that does not exist:

1. **Wait.** For each shard it notes the log's end and waits until SQL has passed it.
2. **Compare.** It walks one snapshot of SQL in the order of its keys: applications and chats beside their
   counters in Redis (`parents`), messages beside the documents of the index (`documents`). Redis returns its
   keys in no order, so a walk of its own finds the counters without a row (`orphan_counters`). Numbers that
   were given twice are among the dead letters (`duplicate_numbers`).
3. **Confirm.** A difference may be a change on its way. So each is compared again with point reads, after
   everything issued by then is decided in SQL. Only what still differs is a finding.
4. **Repair**, if asked to: each finding right after it was reported (`repair`).

Memory does not grow with the amount of data: everything is read in pages and reported as it is found.

A shard whose node of a Redis Cluster does not answer is passed over, also if that begins in between; the
comparison then does not count as one of the stores.

A dry run writes nothing anywhere: it does not drain, and begins no epoch. If no worker stores what is
accepted, it counts numbers above the highest row as pending.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import assert_never

from backend.domain.model import EntryId, checked_token, no_application
from backend.ingest.barrier import Barrier, wait_cursor
from backend.ingest.routing import Routing
from backend.reconcile.comparison import CheckResults, Comparison
from backend.reconcile.documents import check_documents
from backend.reconcile.duplicate_numbers import check_duplicate_numbers
from backend.reconcile.findings import Check, Finding, ReconcileSummary, rule_of
from backend.reconcile.orphan_counters import check_orphan_counters
from backend.reconcile.orphan_messages import check_orphan_messages
from backend.reconcile.parents import check_parents
from backend.reconcile.repair import Repairer
from backend.storage.postgres import applications, child_statistics, reconciliations
from backend.storage.postgres.database import Connection, Database
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers
from backend.storage.search_index import SearchIndex

DRY_RUN_TIMEOUT_SECONDS = 5.0  # for a worker to store what is accepted, as a dry run does not drain


class Reconciler:
    """Begins reconciliations. Thread-safe."""

    def __init__(
        self,
        log: Log,
        workers: Workers,
        database: Database,
        routing: Routing,
        barrier: Barrier,
        repairer: Repairer,
        index: SearchIndex | None,
    ) -> None:
        """Without an index its documents are not compared."""
        self.log = log
        self.workers = workers
        self.database = database
        self.routing = routing
        self.barrier = barrier
        self.repairer = repairer
        self.index = index

    def begin(
        self, token: str | None = None, *, repair: bool = False, dry_run: bool = False
    ) -> "Reconciliation":
        """A comparison of everything, or of one application.

        With `repair` each repairable finding is repaired, unless it is a dry run.
        """
        return Reconciliation(self, token, repair=repair and not dry_run, dry_run=dry_run)


class Reconciliation:
    """One comparison, for one thread. `summary` is complete once all findings were taken."""

    def __init__(
        self, reconciler: Reconciler, token: str | None, *, repair: bool, dry_run: bool
    ) -> None:
        self.summary = ReconcileSummary()
        self._log = reconciler.log
        self._workers = reconciler.workers
        self._database = reconciler.database
        self._routing = reconciler.routing
        self._barrier = reconciler.barrier
        self._index = reconciler.index
        self._repairer = reconciler.repairer if repair else None
        self._token = token
        self._dry_run = dry_run

    def count_keys(self) -> int:
        """About how many keys there are to compare, for a progress bar."""
        with self._database.connect() as connection:
            return child_statistics.count_keys(
                connection, self._token, documents=self._index is not None
            )

    def findings(self, progress: Callable[[int], object] = lambda _: None) -> Iterator[Finding]:
        """Compare and repair; `progress` is called with the number of keys compared so far.

        Passes over shards whose node of a cluster does not answer, which `summary.away` then has. Raises
        NotFound if the application does not exist; EngineDown when an engine is away; Unavailable if what is
        accepted can't be stored in time. Findings reported before stay valid.
        """
        started = time.monotonic()
        for result in self._compare(progress):
            if not isinstance(result, Finding):
                if self._repairer is not None:
                    self._repairer.apply(result)
                continue
            self.summary.findings += 1
            self.summary.repaired += result.repairable and self._repairer is not None
            yield result
        if self._token is None and not self._dry_run and not self.summary.away:
            seconds = time.monotonic() - started
            with self._database.begin() as tx:
                reconciliations.record(tx, seconds, self.summary.findings, self.summary.repaired)

    def _compare(self, progress: Callable[[int], object]) -> CheckResults:
        token = self._token
        compared: Sequence[int] = self._database.refresh_installation().all_shards
        if token is not None:
            compared = [self._routing.learn(checked_token(token)).shard]
        away = self.summary.away
        for shard in compared:
            with away.noting(shard):
                self._wait_drained(shard, None)
        for error in away.values():
            if len(away) == len(compared):
                raise error
        comparison = Comparison(
            self._log,
            self._database,
            self._routing,
            self._index,
            token,
            self._wait_drained,
            progress,
            self.summary,
        )
        with ExitStack() as stack:
            snapshot = stack.enter_context(self._database.snapshot())
            if token is not None and applications.get_application(snapshot, token) is None:
                raise no_application()
            for check in Check:
                if check is Check.ORPHAN_COUNTERS:
                    stack.close()  # the check does not read the snapshot, which holds up vacuum
                for result in _run(check, comparison, snapshot):
                    if isinstance(result, Finding):
                        assert check in rule_of(result.kind).checks, (check, result.kind)
                    yield result

    def _wait_drained(self, shard: int, end: EntryId | None) -> bool:
        """Wait until SQL has passed an entry of a shard's log, or its current end (None).

        Returns False only in a dry run, if no worker does it in time. The end `0-0` means that Redis has no
        epoch.
        """
        if not self._dry_run:
            if end is None or not end.epoch:
                self._barrier.wait_drained(shard)
            else:
                self._barrier.wait_through(shard, end)
            return True
        end = end or self._log.inspect(shard, [])[1]
        return bool(end.epoch) and wait_cursor(
            self._database,
            shard,
            end,
            DRY_RUN_TIMEOUT_SECONDS,
            may_continue=lambda: self._workers.count() > 0,
        )


def _run(check: Check, comparison: Comparison, snapshot: Connection) -> CheckResults:
    match check:
        case Check.PARENTS:
            return check_parents(comparison, snapshot)
        case Check.DOCUMENTS:
            return check_documents(comparison, snapshot)
        case Check.ORPHAN_MESSAGES:
            return check_orphan_messages(comparison, snapshot)
        case Check.DUPLICATE_NUMBERS:
            return check_duplicate_numbers(comparison, snapshot)
        case Check.ORPHAN_COUNTERS:
            return check_orphan_counters(comparison)
        case _:
            assert_never(check)
