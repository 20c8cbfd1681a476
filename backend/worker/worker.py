"""The worker: runs jobs, and sweeps on a timer for what no job announced."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from backend.domain.errors import InstaChatError, SchemaMismatch
from backend.ingest.drain import Drainer
from backend.ingest.kept_log import KeptLog
from backend.maintenance.cascade_delete import CascadeDeleter
from backend.maintenance.counter_sync import CounterSync
from backend.search.publish import Publisher
from backend.search.refresh import Refresher
from backend.search.reindex import Reindexer
from backend.storage.redis.workers import Workers
from backend.worker.queue import JobHandlers, JobQueue
from backend.worker.threads import PublisherThreads, RefreshThread, ReindexThread

SWEEP_INTERVAL_SECONDS = 0.5
# Of a job, and of a shard in a sweep: a shard with a long backlog does not take the threads from the others.
DRAIN_SECONDS = 0.25
CASCADE_BUDGET_SECONDS = 0.2  # of a sweep, so that neither the heartbeat nor the drain is late
RETENTION_BUDGET_SECONDS = 0.2
SYNC_INTERVAL_SECONDS = 55 * 60  # so that SQL's counts follow within the hour
SYNC_CHECK_INTERVAL_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Worker:
    """Runs jobs and sweeps, until it is told to stop. Several may run, on several machines."""

    def __init__(
        self,
        jobs: JobQueue,
        drainer: Drainer,
        cascade_deleter: CascadeDeleter,
        counter_sync: CounterSync,
        workers: Workers,
        kept_log: KeptLog,
        ensure_engines: Callable[[], None],
        publisher: Publisher | None = None,
        refresher: Refresher | None = None,
        reindexer: Reindexer | None = None,
        check_schema: Callable[[], object] = lambda: None,
        apply_retention: Callable[[float, Callable[[], bool]], object] = lambda *_: None,
    ) -> None:
        """`check_schema` is called in each sweep; the worker ends when it raises SchemaMismatch.

        So is `apply_retention`, with the seconds that it has, and whether it may go on.
        """
        self._jobs = jobs
        self._drainer = drainer
        self._cascade_deleter = cascade_deleter
        self._counter_sync = counter_sync
        self._workers = workers
        self._kept_log = kept_log
        self._ensure_engines = ensure_engines
        self._publisher_threads = PublisherThreads(publisher, self._may_work) if publisher else None
        self._refresh_thread = RefreshThread(refresher) if refresher else None
        self._reindex_thread = ReindexThread(reindexer) if reindexer else None
        self._syncing = threading.Lock()
        self._next_sync_check = 0.0  # on the monotonic clock
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._check_schema = check_schema
        self._apply_retention = apply_retention
        self._stop_requested = False
        self._mismatch: SchemaMismatch | None = None

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then finish the batches in progress and return.

        Must be called in the main thread. SIGHUP is ignored. Ends in the same way, and raises SchemaMismatch,
        when the database does not admit this program any more.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: None)  # unlike SIG_IGN, no child inherits this
        with self._jobs.consuming(self._handlers()):
            if self._publisher_threads:
                self._publisher_threads.start()
            if self._refresh_thread:
                self._refresh_thread.start()
            if self._reindex_thread:
                self._reindex_thread.start()
            try:
                while not self._stop_requested:
                    self._sweep()
                    time.sleep(SWEEP_INTERVAL_SECONDS)
            finally:
                self._drainer.stop()
                if self._reindex_thread:
                    self._reindex_thread.stop()
                self._cascade_deleter.stop()
                self._counter_sync.stop()
                if self._publisher_threads:
                    self._publisher_threads.stop()
                if self._refresh_thread:
                    self._refresh_thread.stop()
        with suppress(InstaChatError):
            self._workers.remove(self._name)
        if self._mismatch:
            raise self._mismatch

    def _stop(self, *_: object) -> None:
        # Not an event: the code that this signal interrupts may hold the event's lock.
        self._stop_requested = True

    def _may_work(self) -> bool:
        return self._workers.may_work()

    def _may_go_on(self) -> bool:
        return not self._stop_requested and self._may_work()

    # -- jobs --------------------------------------------------------------------------------------

    def _handlers(self) -> JobHandlers:
        threads: dict[str, Callable[[], object]] = {}
        if self._publisher_threads:
            threads["publish"] = self._publisher_threads.wake
        if self._reindex_thread:
            threads["reindex"] = self._reindex_thread.wake
        return JobHandlers(
            drain=self._run_drain,
            cascade=self._run_cascade,
            sync_counters=self._run_sync,
            **threads,
        )

    def _run_drain(self, shard: int) -> None:
        try:
            if self._drainer.drain_for(shard, DRAIN_SECONDS, self._may_work):
                self._jobs.notify_drain(shard)  # behind the other shards' jobs
        except InstaChatError as error:  # the sweep tries again
            logger.warning("%s", error.message)

    def _run_cascade(self) -> None:
        try:
            self._cascade_deleter.delete_all(may_continue=self._may_work)
        except InstaChatError as error:  # the sweep continues it
            logger.warning("%s", error.message)

    def _run_sync(self) -> None:
        if not self._syncing.acquire(blocking=False):
            return  # a sync is running, which does the same
        try:
            written = sum(1 for _ in self._counter_sync.sync())
            logger.info("counters synced: %d counts written", written)
        except InstaChatError as error:  # `_sync_hourly` asks again
            logger.warning("%s", error.message)
        finally:
            self._syncing.release()

    # -- sweeps ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        always: tuple[Callable[[], object], ...] = (
            self._ensure_engines,
            lambda: self._workers.record_heartbeat(self._name),
            self._check_schema,  # after the heartbeat, which need not wait for PostgreSQL
            self._kept_log.trim_all,
        )
        unless_paused: tuple[Callable[[], object], ...] = (
            lambda: self._drainer.drain_all(self._may_work, seconds_per_shard=DRAIN_SECONDS),
            lambda: self._cascade_deleter.delete_all(CASCADE_BUDGET_SECONDS, self._may_work),
            lambda: self._apply_retention(RETENTION_BUDGET_SECONDS, self._may_go_on),
            self._sync_hourly,
        )
        # Each task fails by itself: a full Redis refuses the heartbeat, and only the drain frees its memory.
        for task in always + (unless_paused if self._may_work() else ()):
            try:
                task()
            except SchemaMismatch as error:
                self._mismatch, self._stop_requested = error, True
                return
            except InstaChatError as error:
                logger.warning("%s", error.message)
            except Exception:
                logger.exception("the sweep failed; it is tried again")

    def _sync_hourly(self) -> None:
        """Enqueue a counter sync when the last one, of any process, is nearly an hour ago."""
        now = time.monotonic()
        if now >= self._next_sync_check:
            self._next_sync_check = now + SYNC_CHECK_INTERVAL_SECONDS
            if self._counter_sync.is_due(SYNC_INTERVAL_SECONDS):
                self._jobs.notify_sync()
