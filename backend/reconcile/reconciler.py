"""Reconcile: do Redis, SQL and the index say the same, key by key? What does not is a `Finding`.

It runs under full load, while engines and processes are killed, and finds nothing that is not there:

1. **Settle.** For each shard the log's end is noted, and waited for until SQL has passed it.
2. **Compare.** One snapshot of SQL is walked in the order of its keys: applications and chats beside their
   counters in Redis, messages beside the documents of the index. Redis, which has no order, is walked once
   more by itself, for counters that nobody has a row for. Numbers are unique under their parent by an
   index of SQL's, so as many rows as the highest number leave no hole: that comparison misses nothing.
3. **Confirm.** Whatever differs may just be on its way. So each difference is looked at again, with point
   reads, after all that was given by then is decided. Only what still differs is a finding.
4. **Mend**, if asked to (`mending`): each finding right after it was found.

Memory does not grow with what is stored: all is read in pages, and told as it is found.

The kinds between Redis and SQL are in `findings`, those of the index in `documents`. Besides there is the
`orphan`: a message's row whose chat has none (by hand only; repair keeps it as a dead letter), or a counter
that is nobody's (`strays`).

A dry run writes nothing anywhere: it does not drain and claims no life of Redis. Where no worker stores
what is accepted, it takes numbers above the rows' highest for pending.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from sqlalchemy import Connection

from backend.domain.errors import Unavailable
from backend.domain.model import EntryId, Parent, checked_token, no_application, shard_of
from backend.ingest.barrier import Settler
from backend.reconcile.documents import Documents
from backend.reconcile.findings import Finding, Summary, is_suspect, judge, target
from backend.reconcile.orphan_counters import find_strays
from backend.reconcile.repair import Mender
from backend.storage import postgres
from backend.storage.postgres import Database, child_statistics, reconciliations
from backend.storage.postgres.child_statistics import Tally
from backend.storage.redis.log import Log
from backend.storage.redis.types import Counter

AT_ONCE = 500  # parents that are looked up, or confirmed, together
ATTEMPTS = 5
PATIENCE_SECONDS = 5.0  # of a dry run, for a worker to store what is accepted
IN_HAND_SECONDS = 60.0
POLL_SECONDS = 0.02


class Reconciler:
    """Begins reconciliations. Thread-safe."""

    def __init__(
        self,
        log: Log,
        database: Database,
        settler: Settler,
        mender: Mender,
        documents: Documents | None,
    ) -> None:
        """Without `documents` the index is left out."""
        self._log = log
        self._database = database
        self._settler = settler
        self._documents = documents
        self._mender = mender

    def begin(
        self, token: str | None = None, *, mend: bool = False, dry_run: bool = False
    ) -> "Reconciliation":
        """A comparison of everything, or of one application.

        With `mend` each finding that can be is repaired, unless it is a dry run.
        """
        mender = self._mender if mend and not dry_run else None
        return Reconciliation(
            self._log,
            self._database,
            self._settler,
            self._documents,
            mender,
            token,
            dry_run=dry_run,
        )


class Reconciliation:
    """One comparison. Of one thread; `summary` is whole once all findings were taken."""

    def __init__(
        self,
        log: Log,
        database: Database,
        settler: Settler,
        documents: Documents | None,
        mender: Mender | None,
        token: str | None,
        *,
        dry_run: bool,
    ) -> None:
        self.summary = Summary()
        self._log = log
        self._database = database
        self._settler = settler
        self._documents = documents
        self._mender = mender
        self._token = token
        self._dry_run = dry_run
        self._shards = database.installation.shards

    def size(self) -> int:
        """About how many keys there are to compare, for a progress bar."""
        with self._database.connect() as connection:
            return child_statistics.count_keys(connection, self._token)

    def findings(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[Finding]:
        """Compare, and mend; `progress` is told how many keys were compared so far.

        Raises NotFound if there is no such application; EngineDown when an engine is away;
        Unavailable if what is accepted can't be stored in time. What was found before stays true.
        """
        begun = time.monotonic()
        for finding in self._compare(progress):
            self.summary.findings += 1
            self.summary.mended += finding.repairable and self._mender is not None
            yield finding
        if self._token is None and not self._dry_run:
            seconds = time.monotonic() - begun
            with self._database.begin() as tx:
                reconciliations.record(tx, seconds, self.summary.findings, self.summary.mended)

    def _compare(self, progress: Callable[[int], None]) -> Iterator[Finding]:
        token = self._token
        wanted = range(self._shards) if token is None else [self._shard(checked_token(token))]
        for shard in wanted:
            self._settle(shard)
        with self._database.snapshot() as snapshot:
            if token is not None and postgres.application(snapshot, token) is None:
                raise no_application()
            yield from self._compare_parents(snapshot, progress)
            if self._documents is not None:
                yield from self._documents.compare(
                    snapshot,
                    token,
                    self.summary,
                    lambda: progress(self._compared),
                    mend=self._mender is not None,
                )
            if token is None:
                yield from self._find_orphans(snapshot)
        yield from find_strays(
            self._log, self._database, self._settle, self._mender, token, self._shards
        )

    @property
    def _compared(self) -> int:
        found = self.summary
        return found.applications + found.chats + found.messages + (found.documents or 0)

    # -- parents: rows beside counters -----------------------------------------------------------------

    def _compare_parents(
        self, snapshot: Connection, progress: Callable[[int], None]
    ) -> Iterator[Finding]:
        suspects: list[Parent] = []
        rows = child_statistics.all_tallies(snapshot, self._token)
        while page := dict(islice(rows, AT_ONCE)):
            for parent, counter in self._look(list(page)).items():
                tally = page[parent]
                self.summary.count(parent, tally)
                self.summary.pending += max((counter.issued or 0) - tally.highest, 0)
                if is_suspect(tally, counter):
                    suspects.append(parent)
            progress(self._compared)
            if len(suspects) >= AT_ONCE:
                yield from self._confirm_parents(suspects)
                suspects = []
        yield from self._confirm_parents(suspects)

    def _look(self, parents: Sequence[Parent]) -> dict[Parent, Counter]:
        """The counters as they are now, one call a shard."""
        found: dict[Parent, Counter] = {}
        for shard, mine in self._by_shard(parents).items():
            found |= zip(mine, self._log.look(shard, mine)[0], strict=True)
        return found

    def _confirm_parents(self, parents: Sequence[Parent]) -> Iterator[Finding]:
        for shard, mine in self._by_shard(parents).items():
            yield from self._confirm_in_shard(shard, mine)

    def _confirm_in_shard(self, shard: int, parents: Sequence[Parent]) -> Iterator[Finding]:
        """Look at suspects once more, in one life of Redis and behind all that was given by then."""
        for _ in range(ATTEMPTS):
            before, end = self._log.look(shard, parents)
            settled = self._settle(shard, end)
            with self._with_nothing_in_hand(shard) as connection:
                found = child_statistics.tallies(connection, parents)
            after, end_after = self._log.look(shard, parents)
            if end_after.epoch == end.epoch:
                break
        else:
            raise Unavailable("Redis changes its life again and again", "see `instachat doctor`")
        for parent, given, counter in zip(parents, before, after, strict=True):
            if (tally := found.get(parent)) is not None:  # else it was deleted meanwhile
                yield from self._judge(parent, tally, given if settled else None, counter)

    def _judge(
        self, parent: Parent, tally: Tally, given: Counter | None, counter: Counter
    ) -> Iterator[Finding]:
        """The findings of one parent, which is mended once all of them are told."""
        decided = (given and given.issued) or 0
        self.summary.pending -= max(decided - tally.highest, 0)  # it has been waited for in vain
        repairable = False
        with self._database.snapshot() as connection:
            holes = (
                child_statistics.holes(connection, parent, tally.highest)
                if tally.rows < tally.highest
                else ()
            )
            for finding in judge(parent, tally, decided, counter, holes):
                repairable = finding.repairable
                yield finding
        if repairable and self._mender is not None:
            self._mender.mend_parent(parent, target(tally, decided, counter))

    # -- what has no parent ----------------------------------------------------------------------------

    def _find_orphans(self, snapshot: Connection) -> Iterator[Finding]:
        rows = child_statistics.orphans(snapshot)
        while page := list(islice(rows, AT_ONCE)):
            with self._database.connect() as connection:
                page = child_statistics.still_orphans(connection, page)
            for orphan in page:
                yield Finding(
                    "orphan", None, None, orphan.number, "a message whose chat does not exist", True
                )
            if page and self._mender is not None:
                self._mender.bury(page)

    # -- waiting ---------------------------------------------------------------------------------------

    def _settle(self, shard: int, end: EntryId | None = None) -> bool:
        """Have everything decided that is in the log up to an entry, or now; False in a dry run that can't.

        An end of `0-0` is that of a Redis without a life.
        """
        if not self._dry_run:
            if end is None or not end.epoch:
                self._settler.now(shard)
            else:
                self._settler.through(shard, end)
            return True
        end = end or self._log.look(shard, [])[1]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while end.epoch:
            with self._database.connect() as connection:
                _, cursor = postgres.shard_state(connection, shard)
            if cursor >= end:
                return True
            if time.monotonic() > deadline or not self._log.workers():
                break
            time.sleep(POLL_SECONDS)
        return False

    @contextmanager
    def _with_nothing_in_hand(self, shard: int) -> Iterator[Connection]:
        """A moment in which nobody who writes past the log has numbers in hand that are not stored."""
        deadline = time.monotonic() + IN_HAND_SECONDS
        while True:
            with self._database.begin() as tx:
                if child_statistics.nobody_holds_numbers(tx, shard):
                    yield tx
                    return
            if time.monotonic() > deadline:
                raise Unavailable(
                    "an import holds numbers and does not store them", "try again once it has ended"
                )
            time.sleep(POLL_SECONDS)

    # -- shards ----------------------------------------------------------------------------------------

    def _shard(self, token: str) -> int:
        return shard_of(token, self._shards)

    def _by_shard(self, parents: Iterable[Parent]) -> dict[int, list[Parent]]:
        found: dict[int, list[Parent]] = {}
        for parent in parents:
            found.setdefault(self._shard(parent.token), []).append(parent)
        return found
