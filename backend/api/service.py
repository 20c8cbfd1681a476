"""What the routes call: the core in threads, group commit, and waiting until a creation is stored."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final, Literal, TypeVar

from fastapi import Depends, Request

from backend.api import problems
from backend.api.client_address import client_owner
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
from backend.api.server.token_paths import original_path
from backend.api.stored_waiter import StoredWaiter
from backend.api.thread_shares import ThreadShares
from backend.bootstrap import Backend
from backend.catalog.catalog import Catalog
from backend.catalog.waiting import CHANGE_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, PendingNumber
from backend.domain.errors import Gone, InstaChatError, NotStoredYet, Unconfirmed
from backend.domain.model import Accepted, Parent, checked_token
from backend.ingest.requests import AcceptRequest
from backend.live.hub import Follower, Hub
from backend.search.budget import SearchBudget, page_budget
from backend.search.searcher import IndexSearcher
from backend.settings import Durability
from backend.storage.postgres.following import FollowStart

# Threads. Each holds at most one of the database's 30 connections. An application has at most half of them.
CALL_THREADS = 18
DRAIN_WAIT_THREADS = 4
SEARCH_THREADS = 6
SEARCH_THREADS_OF_ONE = 2  # application
MAX_WAITING_SEARCHES_OF_ONE = 200  # for a thread; beyond this, TOO_MANY_CALLS
MAX_STREAMS = 15_000  # of one process; fewer than its connections, so that requests find one
MAX_STREAMS_OF_ONE = MAX_STREAMS // 2  # application
MAX_CALLS = 1_000  # running or queued; beyond this, TOO_MANY_CALLS
MAX_CALLS_OF_ONE = MAX_CALLS // 2  # application
OPERATOR: Final = ""
"""Whose calls those of the operator's routes are: no application has this token."""
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
        self._group_commit = make_group_commit(
            acceptor, core.log, strict=core.settings.durability is Durability.STRICT
        )
        self._group_count = make_group_count(core.counters.shard, core.log)

        def is_accepting() -> bool:
            return self._group_commit.is_accepting

        self._group_read = GroupRead(core.database, self._group_count, is_accepting)
        # Connections of their own, as a search may take longer than all other reads.
        self._group_search = GroupRead(core.database, self._group_count, is_accepting)
        self._stored_waiter = StoredWaiter(core.database)
        self._hub = Hub(core.live_reader, core.log.url, encode_event, KEEPALIVE)
        self._threads = _in_halves(CALL_THREADS, "call")
        self._drain_wait_threads = _in_halves(DRAIN_WAIT_THREADS, "long")
        search_threads = ThreadPoolExecutor(SEARCH_THREADS, "search")
        self._search_threads = ThreadShares(
            search_threads, SEARCH_THREADS_OF_ONE, MAX_WAITING_SEARCHES_OF_ONE
        )
        searcher = self.catalog.messages.searcher
        self._indexed_searches = (
            IndexedSearches(self._group_search, search_threads, searcher)
            if isinstance(searcher, IndexSearcher)
            else None
        )
        self._calls = 0
        self._calls_of: Counter[str] = Counter()  # by the application's token
        self._when_tokens_change: list[Callable[[], object]] = []

    def original_path(self, url: bytes) -> bytes:
        """See `token_paths.original_path`."""
        return original_path(url, self.core.tokens)

    def when_tokens_change(self, call: Callable[[], object]) -> None:
        """Call it on the event loop whenever a token was replaced."""
        self._when_tokens_change.append(call)

    def apply_token_changes(self) -> None:
        """Forget what was kept for tokens that were replaced, and end their streams."""
        if changed := self.core.tokens.take_changed():
            for call in self._when_tokens_change:
                call()
            self._hub.end_applications(changed)

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
        if not await self._stored_waiter.wait_stored(token, accepted, STORED_WAIT_SECONDS):
            return False
        await self.run(token, lambda: self.catalog.messages.check_stored(token, chat, accepted))
        if wait == "stored" or chat is None:
            return True
        first, last = accepted.first, accepted.last

        def is_searchable() -> bool:
            return self.catalog.messages.wait_searchable(token, chat, first, last, 0.0)

        while not await self.run(token, is_searchable):
            if self._clock() > deadline:
                return False
            await asyncio.sleep(SEARCHABLE_POLL_SECONDS)
        return True

    async def follow(self, token: str, chat: int, after: int | None) -> Follower:
        """Follow a chat after a number, or after the newest stored message. The caller closes the follower.

        Raises NotFound if there is no such chat. One that is accepted and not stored yet can be followed.
        """
        if (
            self._hub.open_followers >= MAX_STREAMS
            or self._hub.count_followers(token) >= MAX_STREAMS_OF_ONE
        ):
            raise ProblemException(problems.TOO_MANY_STREAMS)

        def find() -> FollowStart | None:
            self.catalog.chats.find_row(token, chat)
            return self.core.live_reader.start((token, chat))

        is_followed = self._hub.is_followed((token, chat))
        start = None if is_followed else await self.run(token, find)
        return self._hub.follow((token, chat), start, after)

    def end_streams(self) -> None:
        """End all streams, because the server stops."""
        self._hub.close()

    async def check_parent(self, parent: Parent) -> None:
        """Raise NotFound unless there is such a chat or application. No SQL if its counter is verified."""
        checked_token(parent.token)
        await self.run(parent.token, lambda: self.core.counters.read_issued([parent]))

    async def run(self, token: str, call: Callable[[], T]) -> T:
        """Run a call of the core for an application, or the OPERATOR, in a thread of its share.

        Raises ProblemException if it takes longer than 4 seconds, or too many calls wait.
        """
        return await self._run_in(self._threads, token, call, CALL_TIMEOUT_SECONDS)

    async def run_search(
        self, token: str, call: Callable[[SearchBudget], T], arrived_at: float
    ) -> T:
        """As `run`, in threads for searches only, of which the application has a share.

        So a hanging Elasticsearch delays nothing else, and an application's searches leave threads to others.
        The 4 seconds begin when the search arrived, by `time.perf_counter`. `call` gets the budget of a page,
        which ends it soon after the time-out.
        """
        left = CALL_TIMEOUT_SECONDS - (time.perf_counter() - arrived_at)
        given_up = threading.Event()
        budget = page_budget(given_up.is_set)
        try:
            return await self._run_in(self._search_threads, token, lambda: call(budget), left)
        finally:
            given_up.set()

    async def run_read(
        self, token: str, call: Callable[[], T | PendingNumber]
    ) -> T | PendingNumber:
        """As `run`, and repeat the call for up to a second while its result is a PendingNumber."""
        deadline = self._clock() + READ_TIMEOUT_SECONDS
        while True:
            result = await self.run(token, call)
            if not isinstance(result, PendingNumber) or self._clock() > deadline:
                return result
            await asyncio.sleep(POLL_SECONDS)

    async def run_application_creation(self, address: str, call: Callable[[], T]) -> T:
        """As `run_application_change`, for a client that has no application: its address has a share."""
        return await self.run_application_change(client_owner(address), call)

    async def run_application_change(self, token: str, call: Callable[[], T]) -> T:
        """Run a call that creates or renames an application, whose row is always there.

        Raises Unconfirmed if it takes longer than 4 seconds and may have been executed.
        """
        return await self._run_in(self._threads, token, call, CALL_TIMEOUT_SECONDS, is_change=True)

    async def run_change(
        self, token: str, call: Callable[[], T], *, decided_by_drain: bool = False
    ) -> T:
        """Run a call that changes something, and repeat it for up to 5 seconds while it raises NotStoredYet.

        Then raises NotStoredYet; Unconfirmed if one call takes longer than 10 seconds and may have been
        executed. A call that is `decided_by_drain` waits for the drain, in threads for such calls only.
        """
        threads = self._drain_wait_threads if decided_by_drain else self._threads
        deadline = self._clock() + CHANGE_TIMEOUT_SECONDS
        while True:
            try:
                return await self._run_in(
                    threads, token, call, CHANGE_CALL_TIMEOUT_SECONDS, is_change=True
                )
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
            threads.shutdown(wait=False)

    async def _run_in(
        self,
        threads: ThreadShares,
        token: str,
        call: Callable[[], T],
        seconds: float,
        *,
        is_change: bool = False,
    ) -> T:
        if self._calls >= MAX_CALLS or self._calls_of[token] >= MAX_CALLS_OF_ONE:
            raise ProblemException(problems.TOO_MANY_CALLS)
        self._calls += 1
        self._calls_of[token] += 1
        try:
            future = threads.submit(token, call)
            try:
                async with asyncio.timeout(seconds):
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                # A call that still waits for a thread is taken back.
                if is_change and not future.cancel():
                    raise Unconfirmed("a change takes too long", "see `instachat status`") from None
                raise ProblemException(problems.CALL_TIMED_OUT) from None
        finally:
            self._calls -= 1
            self._calls_of[token] -= 1
            if not self._calls_of[token]:
                del self._calls_of[token]

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()


def _in_halves(count: int, name: str) -> ThreadShares:
    """So many threads, of which an application has at most half."""
    return ThreadShares(ThreadPoolExecutor(count, name), count // 2, MAX_CALLS_OF_ONE)


async def get_service(request: Request) -> Service:
    """The service of this process."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
