"""What the routes call: the core in threads, group commit, and waiting until a creation is stored."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, TypeVar

from fastapi import Depends, Request

from backend.api import problems
from backend.api.creation_limit import CreationLimit
from backend.api.event_stream import KEEPALIVE, encode_event
from backend.api.health import process_metrics
from backend.api.health.poller import HealthPoller
from backend.api.problems import ProblemException
from backend.api.server.cluster_commit import make_group_commit
from backend.api.server.cluster_count import make_group_count
from backend.api.server.group_commit import MAX_WAITING_REQUESTS, AcceptCallback
from backend.api.server.group_read import MAX_WAITING_READS, GroupRead, Read
from backend.api.server.indexed_search import MAX_SEARCHES, IndexedSearches
from backend.api.stored_waiter import StoredWaiter
from backend.bootstrap import Backend
from backend.catalog.catalog import Catalog
from backend.catalog.waiting import CHANGE_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, PendingNumber
from backend.domain.errors import Gone, InstaChatError, NotStoredYet
from backend.domain.model import Accepted
from backend.ingest.requests import AcceptRequest
from backend.live.hub import Follower, Hub
from backend.search.searcher import IndexSearcher
from backend.storage.postgres.following import FollowStart

# Threads. Each holds at most one of the database's 30 connections.
CALL_THREADS = 18
DRAIN_WAIT_THREADS = 4
SEARCH_THREADS = 6
MAX_STREAMS = 15_000  # of one process; fewer than its connections, so that requests find one
MAX_CALLS = 1_000  # running or queued; beyond this, TOO_MANY_CALLS
CALL_TIMEOUT_SECONDS = 4.0
CHANGE_CALL_TIMEOUT_SECONDS = 10.0
STORED_WAIT_SECONDS = 5.0  # for `?wait=`
POLL_SECONDS = 0.02
SEARCHABLE_POLL_SECONDS = 0.1  # each poll asks Elasticsearch, which refreshes once a second

Wait = Literal["stored", "searchable"]
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Service:
    """The core, for the event loop of one process."""

    def __init__(self, core: Backend, notifier: ThreadPoolExecutor) -> None:
        self.core = core
        self.catalog: Catalog = core.catalog.without_waiting()
        self.health_poller = HealthPoller(core)
        self.creation_limit = CreationLimit(core.workers.url, core.settings.app_creation_limit)
        acceptor = core.acceptor.with_notify(
            lambda shard: notifier.submit(core.jobs.notify_drain, shard)
        )
        self._group_commit = make_group_commit(acceptor, core.log)
        self._group_count = make_group_count(core.counters.shard, core.log)
        self._group_read = GroupRead(core.database, self._group_count)
        # Connections of their own, as a search may take longer than all other reads.
        self._group_search = GroupRead(core.database, self._group_count)
        self._stored_waiter = StoredWaiter(core.database)
        self._hub = Hub(core.live_reader, core.log.url, encode_event, KEEPALIVE)
        self._threads = ThreadPoolExecutor(CALL_THREADS, "call")
        self._drain_wait_threads = ThreadPoolExecutor(DRAIN_WAIT_THREADS, "long")
        self._search_threads = ThreadPoolExecutor(SEARCH_THREADS, "search")
        searcher = self.catalog.messages.searcher
        self._indexed_searches = (
            IndexedSearches(self._group_search, self._search_threads, searcher)
            if isinstance(searcher, IndexSearcher)
            else None
        )
        self._calls = 0

    async def accept(self, request: AcceptRequest) -> Accepted:
        """Assign numbers; see `GroupCommit.accept`."""
        return await self._group_commit.accept(request)

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        """Assign numbers and call `callback` with them; see `GroupCommit.submit`."""
        self._group_commit.submit(request, callback)

    def submit_read(self, read: Read) -> None:
        """Read together with what waits at the same moment; see `GroupRead.submit`."""
        self._group_read.submit(read)

    def submit_search(self, read: Read) -> None:
        """As `submit_read`, without delaying other reads."""
        (self._indexed_searches or self._group_search).submit(read)

    async def creation_status(
        self, wait: Wait | None, token: str, chat: int | None, accepted: Accepted
    ) -> int:
        """The status of an accepted creation: 201 if `wait` is reached within 5 seconds, otherwise 202.

        Raises Gone if the creation was rejected. No other error while waiting changes that the creation was
        accepted: such an error is logged, and the status is 202.
        """
        try:
            reached = wait is not None and await self._wait_until(wait, token, chat, accepted)
        except Gone:
            raise
        except (InstaChatError, ProblemException) as error:
            logger.warning("waiting for an accepted creation failed: %s", error)
            reached = False
        return 201 if reached else 202

    async def _wait_until(
        self, wait: Wait, token: str, chat: int | None, accepted: Accepted
    ) -> bool:
        """Whether the creation is stored, or searchable, within STORED_WAIT_SECONDS."""
        deadline = self._clock() + STORED_WAIT_SECONDS
        if not await self._stored_waiter.wait_stored(accepted, STORED_WAIT_SECONDS):
            return False
        await self.run(lambda: self.catalog.messages.check_stored(token, chat, accepted))
        if wait == "stored" or chat is None:
            return True
        first, last = accepted.first, accepted.last

        def is_searchable() -> bool:
            return self.catalog.messages.wait_searchable(token, chat, first, last, 0.0)

        while not await self.run(is_searchable):
            if self._clock() > deadline:
                return False
            await asyncio.sleep(SEARCHABLE_POLL_SECONDS)
        return True

    async def follow(self, token: str, chat: int, after: int | None) -> Follower:
        """Follow a chat after a number, or after the newest stored message. The caller closes the follower.

        Raises NotFound if there is no such chat. One that is accepted and not stored yet can be followed.
        """
        if self._hub.open_followers >= MAX_STREAMS:
            raise ProblemException(problems.TOO_MANY_STREAMS)

        def find() -> FollowStart | None:
            self.catalog.chats.find_row(token, chat)
            return self.core.live_reader.start((token, chat))

        is_followed = self._hub.is_followed((token, chat))
        start = None if is_followed else await self.run(find)
        return self._hub.follow((token, chat), start, after)

    def end_streams(self) -> None:
        """End all streams, because the server stops."""
        self._hub.close()

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call of the core in a thread. Raises ProblemException if it takes longer than 4 seconds."""
        return await self._run_in(self._threads, call, CALL_TIMEOUT_SECONDS)

    async def run_search(self, call: Callable[[], T], arrived_at: float) -> T:
        """As `run`, in threads for searches only, so that a hanging Elasticsearch delays nothing else.

        The 4 seconds begin when the search arrived, by `time.perf_counter`.
        """
        left = CALL_TIMEOUT_SECONDS - (time.perf_counter() - arrived_at)
        return await self._run_in(self._search_threads, call, left)

    async def run_read(self, call: Callable[[], T | PendingNumber]) -> T | PendingNumber:
        """As `run`, and repeat the call for up to a second while its result is a PendingNumber."""
        deadline = self._clock() + READ_TIMEOUT_SECONDS
        while True:
            result = await self.run(call)
            if not isinstance(result, PendingNumber) or self._clock() > deadline:
                return result
            await asyncio.sleep(POLL_SECONDS)

    async def run_change(self, call: Callable[[], T], *, decided_by_drain: bool = False) -> T:
        """Run a call that changes something, and repeat it for up to 5 seconds while it raises NotStoredYet.

        Then raises NotStoredYet; ProblemException if one call takes longer than 10 seconds. A call that is
        `decided_by_drain` waits for the drain, in threads for such calls only.
        """
        threads = self._drain_wait_threads if decided_by_drain else self._threads
        deadline = self._clock() + CHANGE_TIMEOUT_SECONDS
        while True:
            try:
                return await self._run_in(threads, call, CHANGE_CALL_TIMEOUT_SECONDS)
            except NotStoredYet:
                if self._clock() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    def pools(self) -> process_metrics.Pools:
        """How much of each of this process's pools is in use, and its size."""
        database = self.core.database.pool()
        return {
            "accept": (self._group_commit.waiting_requests, MAX_WAITING_REQUESTS),
            "calls": (self._calls, MAX_CALLS),
            "database": database,
            "streams": (self._hub.open_followers, MAX_STREAMS),
            "reads": (self._group_read.waiting_reads, MAX_WAITING_READS),
            "searches": self._searches(),
        }

    def _searches(self) -> tuple[int, int]:
        """How many searches wait for a statement; with an index, how many run."""
        if self._indexed_searches is None:
            return self._group_search.waiting_reads, MAX_WAITING_READS
        return len(self._indexed_searches.running), MAX_SEARCHES

    async def close(self) -> None:
        """Wait for the calls that accept; calls that are still in threads are not waited for."""
        self._hub.close()
        await self._group_commit.close()
        self._group_read.close()
        if self._indexed_searches is not None:
            self._indexed_searches.close()
        self._group_search.close()
        await self._group_count.close()
        for threads in (self._threads, self._drain_wait_threads, self._search_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _run_in(
        self, threads: ThreadPoolExecutor, call: Callable[[], T], seconds: float
    ) -> T:
        if self._calls >= MAX_CALLS:
            raise ProblemException(problems.TOO_MANY_CALLS)
        self._calls += 1
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(threads, call)
        except TimeoutError:
            raise ProblemException(problems.CALL_TIMED_OUT) from None
        finally:
            self._calls -= 1

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()


async def get_service(request: Request) -> Service:
    """The service of this process."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
