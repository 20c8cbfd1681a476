"""The jobs, on Huey, and the worker that runs them.

Huey removes a task before it runs it, so a crash loses the task. Hence a job never carries a message:
it is a doorbell, and the worker sweeps on a timer of its own for what no bell announced.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import redis
from huey import RedisHuey
from huey.consumer import Consumer
from huey.registry import Message
from huey.serializer import Serializer

from backend.domain.errors import EngineDown, Failed, InstaChatError
from backend.ingest.drain import Drainer
from backend.maintenance.cascade_delete import CascadeDeleter
from backend.maintenance.counter_sync import CounterSync
from backend.search.publish import Publisher, PublisherThreads
from backend.search.reindex import Reindexer, ReindexThread
from backend.settings import redact
from backend.storage.redis.log import Log

SWEEP_INTERVAL_SECONDS = 0.5
CASCADE_BUDGET_SECONDS = (
    0.2  # of a sweep, so that the worker's sign of life and the drain wait no longer
)
SYNC_INTERVAL_SECONDS = 55 * 60  # so that SQL's counts follow within the hour
SYNC_CHECK_INTERVAL_SECONDS = 60.0
SHUTDOWN_TIMEOUT_SECONDS = 30
CONSUMER_THREADS = 2
MAX_QUEUED_WAKE_UPS = 100
QUEUE_PAGE_SIZE = 1_000
logger = logging.getLogger(__name__)


class JsonSerializer(Serializer):  # type: ignore[misc]  # huey is untyped
    """Tasks as JSON: whoever can write to the queue can name a job, and no more."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps(data._asdict() if isinstance(data, Message) else data).encode()

    def _deserialize(self, data: bytes) -> Any:
        decoded = json.loads(data)
        return Message(**decoded) if isinstance(decoded, dict) and "name" in decoded else decoded


class PausableQueue(RedisHuey):  # type: ignore[misc]  # huey is untyped
    """Huey's queue, which gives no job while it is paused."""

    def __init__(self, *arguments: Any, is_paused: Callable[[], bool], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_paused = is_paused

    def dequeue(self) -> Any:
        """The next job, if there is one and it may be done."""
        if self._is_paused():
            time.sleep(SWEEP_INTERVAL_SECONDS)
            return None
        task = super().dequeue()
        if task is not None and self._is_paused():  # since it was waited for
            self.enqueue(task)
            return None
        return task


class JobQueue:
    """The queue, and the two ends of it: `notify_drain` enqueues, `Worker` runs."""

    def __init__(
        self,
        url: str,
        log: Log,
        drainer: Drainer,
        cascade_deleter: CascadeDeleter,
        counter_sync: CounterSync,
    ) -> None:
        try:
            # Its own client: its time-out for answers must be longer than the queue's blocking pop.
            pool = redis.ConnectionPool.from_url(url, socket_connect_timeout=2, socket_timeout=10)
        except ValueError as error:
            raise Failed(
                f"the job queue's URL {redact(url)} can't be used: {error}",
                "it looks like redis://HOST:6379/0 (INSTACHAT_HUEY_URL)",
            ) from None
        self.huey = PausableQueue(
            "instachat",
            results=False,
            serializer=JsonSerializer(),
            connection_pool=pool,
            is_paused=lambda: not self.may_work(),
        )
        self._log = log
        self.publish_requested = threading.Event()  # of this process's worker
        self.reindex_requested = threading.Event()
        self._drainer = drainer
        self._cascade_deleter = cascade_deleter
        self._drain = self.huey.task(name="drain")(self._run_drain)
        self._cascade = self.huey.task(name="cascade")(self._run_cascade)
        self._counter_sync = counter_sync
        self._syncing = threading.Lock()
        self._sync = self.huey.task(name="sync-counters")(self._run_sync)
        self._publish = self.huey.task(name="publish")(self.publish_requested.set)
        self._reindex = self.huey.task(name="reindex")(self.reindex_requested.set)

    def notify_drain(self, shard: int) -> None:
        """Ask for a drain of a shard. Never raises: the worker's sweep finds what no bell announced."""
        self._enqueue(lambda: self._drain(shard))

    def notify_publisher(self) -> None:
        """Ask for what the outbox names to be published. Never raises, as `notify_drain`."""
        self._enqueue(self._publish)

    def request_reindex(self) -> None:
        """Ask for a reindex: a worker begins one, or goes on with one that was interrupted.

        Asked for twice, or while one runs, it is one. Raises EngineDown if the queue does not take it.
        """
        try:
            self._reindex()
        except redis.RedisError as error:
            raise EngineDown(
                f"the job queue does not answer ({type(error).__name__}); nothing was asked for",
                "see `instachat doctor`; the setting is INSTACHAT_HUEY_URL",
            ) from None

    def notify_cascade(self) -> None:
        """Ask that what removed parents left is dropped. Never raises, as `notify_drain`."""
        self._enqueue(self._cascade)

    def notify_sync(self) -> None:
        """Ask for a sync of the counters. Never raises, as `notify_drain`."""
        self._enqueue(self._sync)

    def may_work(self) -> bool:
        """Whether a worker may take a job: the queue is not paused, and the log's Redis says so."""
        try:
            return not self._log.paused()
        except InstaChatError:
            return False

    def _enqueue(self, enqueue: Callable[[], object]) -> None:
        with suppress(redis.RedisError):
            # Bells that nobody heard yet are enough: the queue does not grow while no worker runs.
            if self.length() < MAX_QUEUED_WAKE_UPS:
                enqueue()

    def _run_drain(self, shard: int) -> None:
        try:
            self._drainer.drain(shard, self.may_work)
        except InstaChatError as error:  # the sweep tries again
            logger.warning("%s", error.message)

    def _run_cascade(self) -> None:
        try:
            self._cascade_deleter.delete_all(may_continue=self.may_work)
        except InstaChatError as error:  # the sweep goes on
            logger.warning("%s", error.message)

    def _run_sync(self) -> None:
        if not self._syncing.acquire(blocking=False):
            return  # asked for again while one is under way, which is as good
        try:
            written = sum(1 for _ in self._counter_sync.sync())
            logger.info("counters synced: %d counts written", written)
        except InstaChatError as error:  # the worker asks again
            logger.warning("%s", error.message)
        finally:
            self._syncing.release()

    def length(self) -> int:
        """How many jobs are waiting."""
        return int(self.huey.pending_count())

    def count_by_name(self) -> dict[str, int]:
        """How many jobs are waiting, by name. EngineDown if the queue's Redis is away."""
        found: Counter[str] = Counter()
        storage = self.huey.storage
        try:
            for start in range(0, self.length(), QUEUE_PAGE_SIZE):
                for data in storage.conn.lrange(
                    storage.queue_key, start, start + QUEUE_PAGE_SIZE - 1
                ):
                    found[_job_name(data)] += 1
        except redis.RedisError as error:
            raise EngineDown(
                f"the job queue's Redis can't be used: {error}",
                "check INSTACHAT_HUEY_URL (unset: INSTACHAT_REDIS_URL)",
            ) from None
        return dict(sorted(found.items()))


def _job_name(data: bytes) -> str:
    try:
        return str(json.loads(data)["name"]).rpartition(".")[2]  # Huey puts the module in front
    except (ValueError, TypeError, KeyError):
        return "unreadable"


class Worker:
    """Runs jobs and sweeps, until told to stop. Several may run, on several machines."""

    def __init__(
        self,
        jobs: JobQueue,
        drainer: Drainer,
        cascade_deleter: CascadeDeleter,
        counter_sync: CounterSync,
        log: Log,
        ensure_engines: Callable[[], None],
        publisher: Publisher | None = None,
        reindexer: Reindexer | None = None,
    ) -> None:
        self._jobs = jobs
        self._reindex_thread = (
            ReindexThread(reindexer, jobs.reindex_requested) if reindexer else None
        )
        self._publisher_threads = (
            PublisherThreads(publisher, jobs.publish_requested, jobs.may_work)
            if publisher
            else None
        )
        self._drainer = drainer
        self._cascade_deleter = cascade_deleter
        self._counter_sync = counter_sync
        self._next_sync_check = 0.0  # when to look next whether a sync is due
        self._log = log
        self._ensure_engines = ensure_engines
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._stop_requested = False

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then finish the batches under way and return.

        Must be called in the main thread.
        """
        consumer = Consumer(
            self._jobs.huey,
            workers=CONSUMER_THREADS,
            periodic=False,
            initial_delay=0.05,
            max_delay=1.0,
            shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
        )
        consumer.start()
        if self._publisher_threads:
            self._publisher_threads.start()
        if self._reindex_thread:
            self._reindex_thread.start()
        # Ours in place of Huey's, which treats one of the two as a reason to drop its work.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
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
            consumer.stop(graceful=True)
            with suppress(InstaChatError):
                self._log.remove_worker(self._name)

    def _stop(self, *_: object) -> None:
        # No event: its lock may be held by what this has interrupted.
        self._stop_requested = True

    def _sweep(self) -> None:
        may_work = self._jobs.may_work
        # Each by itself: a Redis that is full takes no beat, and is relieved by the drain alone.
        heartbeats: tuple[Callable[[], object], ...] = (
            self._ensure_engines,
            lambda: self._log.record_heartbeat(self._name),
        )
        work: tuple[Callable[[], object], ...] = (
            lambda: self._drainer.drain_all(may_work),
            lambda: self._cascade_deleter.delete_all(CASCADE_BUDGET_SECONDS, may_work),
            self._sync_hourly,
        )
        for task in heartbeats + (work if may_work() else ()):
            try:
                task()
            except InstaChatError as error:
                logger.warning("%s", error.message)
            except Exception:
                logger.exception("the sweep failed; it is tried again")

    def _sync_hourly(self) -> None:
        """Ask for a sync when the last one, by whomever, is nearly an hour ago."""
        now = time.monotonic()
        if now >= self._next_sync_check:
            self._next_sync_check = now + SYNC_CHECK_INTERVAL_SECONDS
            if self._counter_sync.is_due(SYNC_INTERVAL_SECONDS):
                self._jobs.notify_sync()
