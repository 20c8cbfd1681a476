"""The worker's threads that publish, refresh and reindex: neither a drain nor a sweep waits for them."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from backend.domain.errors import InstaChatError
from backend.search.publish import Publisher
from backend.search.refresh import Refresher
from backend.search.reindex import Reindexer

PUBLISHERS = 3  # of a worker: while two wait for Elasticsearch, one loads rows
POLL_SECONDS = 0.5  # between two looks at the outbox without a wake-up
RETRY_SECONDS = 2.0  # between two attempts when publishing failed
PUBLISH_SHUTDOWN_SECONDS = 3.0  # what is not published by then stays in the outbox
REFRESH_SHUTDOWN_SECONDS = 0.5
REINDEX_SHUTDOWN_SECONDS = 2.0  # a page of one takes that long
logger = logging.getLogger(__name__)


class _WakeableThreads(ABC):
    """Threads that do one thing each time they are woken up, and at each poll if there is an interval."""

    def __init__(self, name: str, count: int, poll_seconds: float | None) -> None:
        self._poll_seconds = poll_seconds
        self._wake_up = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Have the threads do their work soon. Returns at once."""
        self._wake_up.set()

    def _end(self, seconds: float) -> None:
        """Wait for the work in progress, up to so many seconds in all."""
        self._stopping.set()
        self._wake_up.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake_up.wait(self._poll_seconds)
            self._wake_up.clear()
            if not self._stopping.is_set():
                self._work()

    @abstractmethod
    def _work(self) -> None:
        """Do it once; must not raise."""


class PublisherThreads(_WakeableThreads):
    """Threads that publish what the outbox names."""

    def __init__(self, publisher: Publisher, may_work: Callable[[], bool]) -> None:
        """While `may_work` returns False, as when the job queue is paused, nothing is published."""
        super().__init__("publisher", PUBLISHERS, POLL_SECONDS)
        self._publisher = publisher
        self._may_work = may_work
        self._last_error: type[Exception] | None = None

    def stop(self) -> None:
        """End after the bulks in progress; the leases of one that takes too long are released."""
        self._publisher.stop()
        self._end(PUBLISH_SHUTDOWN_SECONDS)
        self._publisher.release_leases()

    def _work(self) -> None:
        try:
            if self._publisher.publish(self._may_work) and self._last_error:
                self._last_error = None
                logger.info("publishing works again")
            return
        except InstaChatError as error:
            # Logged once, not at every attempt: `status` shows how far behind publishing is.
            if self._last_error is not type(error):
                self._last_error = type(error)
                logger.warning("%s; publishing is retried", error.message)
        except Exception:
            logger.exception("publishing failed; it is retried")
        self._stopping.wait(RETRY_SECONDS)


class RefreshThread(_WakeableThreads):
    """A thread that refreshes the index that searches read, while messages are published."""

    def __init__(self, refresher: Refresher) -> None:
        super().__init__("refresh", 1, POLL_SECONDS)
        self._refresher = refresher

    def stop(self) -> None:
        """End; a refresh that takes long is not waited for."""
        self._end(REFRESH_SHUTDOWN_SECONDS)

    def _work(self) -> None:
        try:
            self._refresher.refresh()
            return
        except InstaChatError as error:
            # Publishing logs the same once; until it works again, searches read the rows from PostgreSQL.
            logger.debug("%s", error.message)
        except Exception:
            logger.exception("the refresh failed; it is tried again")
        self._stopping.wait(RETRY_SECONDS)


class ReindexThread(_WakeableThreads):
    """A thread that reindexes when it is woken up."""

    def __init__(self, reindexer: Reindexer) -> None:
        super().__init__("reindex", 1, None)
        self._reindexer = reindexer

    def stop(self) -> None:
        """End after the page in progress; the next reindex that is requested resumes from there."""
        self._reindexer.stop()
        self._end(REINDEX_SHUTDOWN_SECONDS)

    def _work(self) -> None:
        try:
            logger.info("reindexing, as requested")
            self._reindexer.build(resume=True)
        except InstaChatError as error:
            logger.warning("%s%s", error.message, f"; {error.hint}" if error.hint else "")
        except Exception:
            logger.exception("the reindex failed")
