"""What every route works with: the core, group commit, and threads for the synchronous rest."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Annotated, Literal, TypeVar

from fastapi import Depends
from fastapi import Request as HttpRequest

from backend.api import problems
from backend.api.creation_limit import CreationLimit
from backend.api.health import process_metrics
from backend.api.health.poller import HealthPoller
from backend.api.problems import ProblemException
from backend.api.server.group_commit import MAX_CONCURRENT_CALLS as ACCEPT_CALLS
from backend.api.server.group_commit import MAX_WAITING_REQUESTS, AnswerCallback, GroupCommit
from backend.api.waiting import StoredWaiter
from backend.bootstrap import Backend, open_unchecked
from backend.catalog.catalog import Catalog, PendingNumber
from backend.domain.errors import Gone, InstaChatError, NotStoredYet
from backend.domain.model import Accepted
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.redis.accept_async import make_async_clients

# At the same time; each holds at most one of the database's 30 connections.
CALL_THREADS = 18
DRAIN_WAIT_THREADS = 4
SEARCH_THREADS = 6
MAX_CALLS = 1_000  # under way and waiting; one more is refused at once
CALL_TIMEOUT_SECONDS = 4.0
CHANGE_TIMEOUT_SECONDS = 10.0
READ_WAIT_SECONDS = 1.0  # how long a read waits for what is accepted and not stored
CHANGE_WAIT_SECONDS = 5.0
STORED_WAIT_SECONDS = 5.0
RENEW_INTERVAL_SECONDS = 1.0
POLL_SECONDS = 0.02
SEARCHABLE_POLL_SECONDS = 0.1  # each is a request to Elasticsearch, which refreshes once a second

# Redis is to be found away within a second; the CLI, where nobody else waits, is more patient.
REDIS_CONNECT_TIMEOUT_SECONDS = 0.4
REDIS_RESPONSE_TIMEOUT_SECONDS = 0.9

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Service:
    """One process's hold on the core, for its event loop."""

    def __init__(self, core: Backend, notifier: ThreadPoolExecutor) -> None:
        self.core = core
        self.catalog: Catalog = core.catalog.without_waiting()
        self.health_poller = HealthPoller(core)
        self.creation_limit = CreationLimit(core.log.url, core.settings.app_creation_limit)
        acceptor = core.acceptor.with_notify(
            lambda shard: notifier.submit(core.jobs.notify_drain, shard)
        )
        self._group_commit = GroupCommit(acceptor, make_async_clients(core.log, ACCEPT_CALLS))
        self._stored_waiter = StoredWaiter(core.database)
        self._threads = ThreadPoolExecutor(CALL_THREADS, "call")
        self._drain_wait_threads = ThreadPoolExecutor(DRAIN_WAIT_THREADS, "long")
        self._search_threads = ThreadPoolExecutor(SEARCH_THREADS, "search")
        self._calls = 0

    async def accept(self, request: AcceptRequest) -> Accepted:
        """Give numbers; see `GroupCommit.accept`."""
        return await self._group_commit.accept(request)

    def submit(self, request: AcceptRequest, answer: AnswerCallback) -> None:
        """Give numbers, and tell them to `answer`; see `GroupCommit.submit`."""
        self._group_commit.submit(request, answer)

    async def wait_until(
        self,
        wait: Literal["stored", "searchable"],
        token: str,
        chat: int | None,
        accepted: Accepted,
    ) -> bool:
        """Wait some seconds until what was accepted is stored or searchable; whether it is.

        Gone if it was rejected. Whatever else goes wrong, it is accepted: then nobody knows yet.
        """
        try:
            return await self._wait_until(wait, token, chat, accepted)
        except Gone:
            raise
        except (InstaChatError, ProblemException) as error:
            logger.warning("what is accepted was waited for in vain: %s", error)
            return False

    async def _wait_until(
        self,
        wait: Literal["stored", "searchable"],
        token: str,
        chat: int | None,
        accepted: Accepted,
    ) -> bool:
        deadline = self._clock() + STORED_WAIT_SECONDS
        if not await self._stored_waiter.wait_stored(accepted, STORED_WAIT_SECONDS):
            return False
        await self.run(lambda: self.catalog.check_stored(token, chat, accepted))
        if wait == "stored" or chat is None:
            return True
        first, last = accepted.first, accepted.last
        while not await self.run(
            lambda: self.catalog.wait_searchable(token, chat, first, last, 0.0)
        ):
            if self._clock() > deadline:
                return False
            await asyncio.sleep(SEARCHABLE_POLL_SECONDS)
        return True

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call of the core in a thread; ProblemException if that takes too long."""
        return await self._run_in(self._threads, call, CALL_TIMEOUT_SECONDS)

    async def run_search(self, call: Callable[[], T]) -> T:
        """As `run`, in threads that nothing else needs: a hanging Elasticsearch holds up only searches."""
        return await self._run_in(self._search_threads, call, CALL_TIMEOUT_SECONDS)

    async def run_read(self, call: Callable[[], T | PendingNumber]) -> T | PendingNumber:
        """What a call finds; a second is waited for what is accepted and not stored yet."""
        deadline = self._clock() + READ_WAIT_SECONDS
        while True:
            found = await self.run(call)
            if not isinstance(found, PendingNumber) or self._clock() > deadline:
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def run_change(self, call: Callable[[], T], *, decided_by_drain: bool = False) -> T:
        """Make a change; some seconds are waited for what is accepted and not stored yet.

        One that is `decided_by_drain`, by the drain, waits for that in threads that nobody else needs.
        """
        threads = self._drain_wait_threads if decided_by_drain else self._threads
        deadline = self._clock() + CHANGE_WAIT_SECONDS
        while True:
            try:
                return await self._run_in(threads, call, CHANGE_TIMEOUT_SECONDS)
            except NotStoredYet:
                if self._clock() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    def pools(self) -> process_metrics.Pools:
        """What there is of this process, and how much of it is in use."""
        database = self.core.database.pool()
        return {
            "accept": (self._group_commit.waiting, MAX_WAITING_REQUESTS),
            "calls": (self._calls, MAX_CALLS),
            "database": database,
        }

    async def close(self) -> None:
        """Wait for what is accepting; what only reads is left."""
        await self._group_commit.close()
        for threads in (self._threads, self._drain_wait_threads, self._search_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _run_in(
        self, threads: ThreadPoolExecutor, call: Callable[[], T], seconds: float
    ) -> T:
        if self._calls >= MAX_CALLS:
            raise ProblemException(problems.BUSY)
        self._calls += 1
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(threads, call)
        except TimeoutError:
            raise ProblemException(problems.UNAVAILABLE) from None
        finally:
            self._calls -= 1

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """The service of this process on the settings' engines; closed when what it accepts is answered."""
    with ExitStack() as stack:
        core = await asyncio.to_thread(_open_backend, settings, stack)
        notifier = stack.enter_context(ThreadPoolExecutor(1, "notifier"))
        service = Service(core, notifier)
        sampler = asyncio.create_task(process_metrics.run_sampler(service.pools))
        renewer = asyncio.create_task(_renew_epochs(core))
        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not walk it
        try:
            yield service
        finally:
            sampler.cancel()
            renewer.cancel()
            await service.close()


async def _renew_epochs(core: Backend) -> None:
    """Keep up with the epochs that others claim, so that no former primary of Redis is taken for the present.

    Where PostgreSQL hangs, one thread waits for it.
    """
    while True:
        await asyncio.sleep(RENEW_INTERVAL_SECONDS)
        try:
            await asyncio.to_thread(core.acceptor.refresh)
        except InstaChatError as error:  # PostgreSQL is away: `/` and `/readyz` say so
            logger.debug("the epochs of Redis are not known anew: %s", error)
        except Exception:
            logger.exception("the epochs of Redis can't be looked up")


def _open_backend(settings: Settings, stack: ExitStack) -> Backend:
    """A core that connects when it is used: an engine that is away now may be back then."""
    core = stack.enter_context(
        open_unchecked(
            settings,
            connect_timeout_seconds=REDIS_CONNECT_TIMEOUT_SECONDS,
            reply_timeout_seconds=REDIS_RESPONSE_TIMEOUT_SECONDS,
        )
    )
    with suppress(InstaChatError):  # read once, so that accepting needs no SQL from then on
        _ = core.database.installation
    return core


async def get_service(request: HttpRequest) -> Service:
    """The service of the process that a request came to."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
