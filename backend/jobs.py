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
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import redis
from huey import RedisHuey
from huey.consumer import Consumer
from huey.registry import Message
from huey.serializer import Serializer

from backend.clearing import Clearer
from backend.drain import Drainer
from backend.errors import Failed, InstaChatError
from backend.log import Log
from backend.publish import Publisher
from backend.settings import redacted
from backend.syncing import Syncer

SWEEP_SECONDS = 0.5
CLEAR_SECONDS = 0.2  # of a sweep, so that the worker's sign of life and the drain wait no longer
SYNC_SECONDS = 55 * 60  # so that SQL's counts follow within the hour
SYNC_LOOK_SECONDS = 60.0
SHUTDOWN_SECONDS = 30
THREADS = 2
MOST_BELLS = 100
PUBLISHERS = 2  # while one waits for Elasticsearch, the other loads
PAUSE_SECONDS = 2.0  # before another try, when publishing failed
PUBLISHED_WITHIN = 4.0  # what is not published by then, when the worker ends, stays in the outbox
logger = logging.getLogger(__name__)


class JsonSerializer(Serializer):  # type: ignore[misc]  # huey is untyped
    """Tasks as JSON: whoever can write to the queue can name a job, and no more."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps(data._asdict() if isinstance(data, Message) else data).encode()

    def _deserialize(self, data: bytes) -> Any:
        decoded = json.loads(data)
        return Message(**decoded) if isinstance(decoded, dict) and "name" in decoded else decoded


class Jobs:
    """The queue, and the two ends of it: `ring` enqueues, `Worker` runs."""

    def __init__(self, url: str, drainer: Drainer, clearer: Clearer, syncer: Syncer) -> None:
        try:
            # Its own client: its time-out for answers must be longer than the queue's blocking pop.
            pool = redis.ConnectionPool.from_url(url, socket_connect_timeout=2, socket_timeout=10)
        except ValueError as error:
            raise Failed(
                f"the job queue's URL {redacted(url)} can't be used: {error}",
                "it looks like redis://HOST:6379/0 (INSTACHAT_HUEY_URL)",
            ) from None
        self.huey = RedisHuey(
            "instachat", results=False, serializer=JsonSerializer(), connection_pool=pool
        )
        self.publishing_asked = threading.Event()  # of this process's worker
        self._drainer = drainer
        self._clearer = clearer
        self._drain = self.huey.task(name="drain")(self._run_drain)
        self._cascade = self.huey.task(name="cascade")(self._run_cascade)
        self._syncer = syncer
        self._syncing = threading.Lock()
        self._sync = self.huey.task(name="sync-counters")(self._run_sync)
        self._publish = self.huey.task(name="publish")(self.publishing_asked.set)

    def ring(self, shard: int) -> None:
        """Ask for a drain of a shard. Never raises: the worker's sweep finds what no bell announced."""
        with suppress(redis.RedisError):
            self._drain(shard)

    def ring_publisher(self) -> None:
        """Ask for what the outbox names to be published. Never raises, as `ring`."""
        with suppress(redis.RedisError):
            # Bells that nobody heard yet are enough: the queue does not grow while no worker runs.
            if self.length() < MOST_BELLS:
                self._publish()

    def cascade(self) -> None:
        """Ask that what removed parents left is dropped. Never raises, as `ring`."""
        with suppress(redis.RedisError):
            self._cascade()

    def sync_counters(self) -> None:
        """Ask for a sync of the counters. Never raises, as `ring`."""
        with suppress(redis.RedisError):
            self._sync()

    def _run_drain(self, shard: int) -> None:
        try:
            self._drainer.drain(shard)
        except InstaChatError as error:  # the sweep tries again
            logger.warning("%s", error.message)

    def _run_cascade(self) -> None:
        try:
            self._clearer.clear_all()
        except InstaChatError as error:  # the sweep goes on
            logger.warning("%s", error.message)

    def _run_sync(self) -> None:
        if not self._syncing.acquire(blocking=False):
            return  # asked for again while one is under way, which is as good
        try:
            written = sum(1 for _ in self._syncer.sync())
            logger.info("counters synced: %d counts written", written)
        except InstaChatError as error:  # the worker asks again
            logger.warning("%s", error.message)
        finally:
            self._syncing.release()

    def length(self) -> int:
        """How many jobs are waiting."""
        return int(self.huey.pending_count())


class Press:
    """Threads that publish. A hanging Elasticsearch holds up these alone, and neither jobs nor the sweep."""

    def __init__(self, publisher: Publisher, asked: threading.Event) -> None:
        """`asked` is set when there is something to publish; they look twice a second all the same."""
        self._publisher = publisher
        self._asked = asked
        self._stopping = threading.Event()
        self._trouble: type[Exception] | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"publisher-{number}", daemon=True)
            for number in range(PUBLISHERS)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the bulks under way; one that takes too long is left to its lease."""
        self._stopping.set()
        self._publisher.stop()
        self._asked.set()
        deadline = time.monotonic() + PUBLISHED_WITHIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._asked.wait(SWEEP_SECONDS)
            self._asked.clear()
            try:
                if self._publisher.publish() and self._trouble:
                    self._trouble = None
                    logger.info("publishing goes on")
                continue
            except InstaChatError as error:
                # Said once, not with every try: how far behind it is, `status` tells.
                if self._trouble is not type(error):
                    self._trouble = type(error)
                    logger.warning("%s; it is tried again and again", error.message)
            except Exception:
                logger.exception("publishing failed; it is tried again")
            self._stopping.wait(PAUSE_SECONDS)


class Worker:
    """Runs jobs and sweeps, until told to stop. Several may run, on several machines."""

    def __init__(
        self,
        jobs: Jobs,
        drainer: Drainer,
        clearer: Clearer,
        syncer: Syncer,
        log: Log,
        tick: Callable[[], None],
        publisher: Publisher | None = None,
    ) -> None:
        self._jobs = jobs
        self._press = Press(publisher, jobs.publishing_asked) if publisher else None
        self._drainer = drainer
        self._clearer = clearer
        self._syncer = syncer
        self._look_at = 0.0  # when to look next whether a sync is due
        self._log = log
        self._tick = tick
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._told_to_stop = False

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then finish the batches under way and return.

        Must be called in the main thread.
        """
        consumer = Consumer(
            self._jobs.huey,
            workers=THREADS,
            periodic=False,
            initial_delay=0.05,
            max_delay=1.0,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        consumer.start()
        if self._press:
            self._press.start()
        # Ours in place of Huey's, which treats one of the two as a reason to drop its work.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._told_to_stop:
                self._sweep()
                time.sleep(SWEEP_SECONDS)
        finally:
            self._drainer.stop()
            self._clearer.stop()
            self._syncer.stop()
            if self._press:
                self._press.stop()
            consumer.stop(graceful=True)
            with suppress(InstaChatError):
                self._log.retire(self._name)

    def _stop(self, *_: object) -> None:
        # No event: its lock may be held by what this has interrupted.
        self._told_to_stop = True

    def _sweep(self) -> None:
        # Each by itself: a Redis that is full takes no beat, and is relieved by the drain alone.
        for duty in (
            self._tick,
            lambda: self._log.beat(self._name),
            self._drainer.drain_all,
            lambda: self._clearer.clear_all(CLEAR_SECONDS),
            self._sync_hourly,
        ):
            try:
                duty()
            except InstaChatError as error:
                logger.warning("%s", error.message)
            except Exception:
                logger.exception("the sweep failed; it is tried again")

    def _sync_hourly(self) -> None:
        """Ask for a sync when the last one, by whomever, is nearly an hour ago."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + SYNC_LOOK_SECONDS
            if self._syncer.due(SYNC_SECONDS):
                self._jobs.sync_counters()
