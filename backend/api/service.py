"""What every route works with: the core, group commit, and threads for the synchronous rest."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from typing import Annotated, Literal, TypeVar

from fastapi import Depends
from fastapi import Request as HttpRequest

from backend.api import problems
from backend.api.creation_limit import CreationLimit
from backend.api.health import process_metrics
from backend.api.health.poller import Watch
from backend.api.problems import Refused
from backend.api.server.group_commit import CALLS as ACCEPTING_CALLS
from backend.api.server.group_commit import MOST_WAITING, Answer, Gatherer
from backend.api.waiting import Waiting
from backend.bootstrap import Backend, addresses, assemble, open_log
from backend.catalog.catalog import Catalog, Pending
from backend.domain.errors import Gone, InstaChatError, NotStoredYet
from backend.domain.model import Accepted
from backend.ingest.accept import Request
from backend.settings import Settings
from backend.storage.postgres import Database
from backend.storage.redis.accept_async import connections

# At the same time; each holds at most one of the database's 30 connections.
CALLS = 18
LONG_CALLS = 4
SEARCHES = 6
MOST_CALLS = 1_000  # under way and waiting; one more is refused at once
CALL_SECONDS = 4.0
LONG_SECONDS = 10.0
READ_SECONDS = 1.0  # how long a read waits for what is accepted and not stored
CHANGE_SECONDS = 5.0
WAIT_SECONDS = 5.0
RENEW_SECONDS = 1.0
POLL_SECONDS = 0.02
SEARCHABLE_POLL_SECONDS = 0.1  # each is a request to Elasticsearch, which refreshes once a second

# Redis is to be found away within a second; the CLI, where nobody else waits, is more patient.
REDIS_CONNECT_SECONDS = 0.4
REDIS_ANSWER_SECONDS = 0.9

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Service:
    """One process's hold on the core, for its event loop."""

    def __init__(self, core: Backend, bell: ThreadPoolExecutor) -> None:
        self.core = core
        self.catalog: Catalog = core.catalog.impatient()
        self.watch = Watch(core)
        self.limit = CreationLimit(core.log.url, core.settings.app_creation_limit)
        acceptor = core.acceptor.ringing(lambda shard: bell.submit(core.jobs.ring, shard))
        self._gatherer = Gatherer(acceptor, connections(core.log, ACCEPTING_CALLS))
        self._waiting = Waiting(core.database)
        self._threads = ThreadPoolExecutor(CALLS, "call")
        self._long_threads = ThreadPoolExecutor(LONG_CALLS, "long")
        self._search_threads = ThreadPoolExecutor(SEARCHES, "search")
        self._calls = 0

    async def accept(self, request: Request) -> Accepted:
        """Give numbers; see `Gatherer.accept`."""
        return await self._gatherer.accept(request)

    def submit(self, request: Request, answer: Answer) -> None:
        """Give numbers, and tell them to `answer`; see `Gatherer.submit`."""
        self._gatherer.submit(request, answer)

    async def is_so(
        self, wait: Literal["stored", "searchable"], token: str, chat: int | None, given: Accepted
    ) -> bool:
        """Wait some seconds until what was given is stored or searchable; whether it is.

        Gone if it was rejected. Whatever else goes wrong, it is accepted: then nobody knows yet.
        """
        try:
            return await self._is_so(wait, token, chat, given)
        except Gone:
            raise
        except (InstaChatError, Refused) as error:
            logger.warning("what is accepted was waited for in vain: %s", error)
            return False

    async def _is_so(
        self, wait: Literal["stored", "searchable"], token: str, chat: int | None, given: Accepted
    ) -> bool:
        deadline = self._clock() + WAIT_SECONDS
        if not await self._waiting.stored(given, WAIT_SECONDS):
            return False
        await self.call(lambda: self.catalog.check_stored(token, chat, given))
        if wait == "stored" or chat is None:
            return True
        first, last = given.first, given.last
        while not await self.call(
            lambda: self.catalog.wait_searchable(token, chat, first, last, 0.0)
        ):
            if self._clock() > deadline:
                return False
            await asyncio.sleep(SEARCHABLE_POLL_SECONDS)
        return True

    async def call(self, call: Callable[[], T]) -> T:
        """Run a call of the core in a thread; Refused if that takes too long."""
        return await self._run(self._threads, call, CALL_SECONDS)

    async def search(self, call: Callable[[], T]) -> T:
        """As `call`, in threads that nothing else needs: a hanging Elasticsearch holds up only searches."""
        return await self._run(self._search_threads, call, CALL_SECONDS)

    async def read(self, call: Callable[[], T | Pending]) -> T | Pending:
        """What a call finds; a second is waited for what is accepted and not stored yet."""
        deadline = self._clock() + READ_SECONDS
        while True:
            found = await self.call(call)
            if not isinstance(found, Pending) or self._clock() > deadline:
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def change(self, call: Callable[[], T], *, decided_later: bool = False) -> T:
        """Make a change; some seconds are waited for what is accepted and not stored yet.

        One that is `decided_later`, by the drain, waits for that in threads that nobody else needs.
        """
        threads = self._long_threads if decided_later else self._threads
        deadline = self._clock() + CHANGE_SECONDS
        while True:
            try:
                return await self._run(threads, call, LONG_SECONDS)
            except NotStoredYet:
                if self._clock() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    def pools(self) -> process_metrics.Pools:
        """What there is of this process, and how much of it is in use."""
        database = self.core.database.pool()
        return {
            "accept": (self._gatherer.waiting, MOST_WAITING),
            "calls": (self._calls, MOST_CALLS),
            "database": database,
        }

    async def close(self) -> None:
        """Wait for what is accepting; what only reads is left."""
        await self._gatherer.close()
        for threads in (self._threads, self._long_threads, self._search_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T], seconds: float) -> T:
        if self._calls >= MOST_CALLS:
            raise Refused(problems.BUSY)
        self._calls += 1
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(threads, call)
        except TimeoutError:
            raise Refused(problems.AWAY) from None
        finally:
            self._calls -= 1

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """The service of this process on the settings' engines; closed when what it accepts is answered."""
    with ExitStack() as stack:
        core = await asyncio.to_thread(_open, settings, stack)
        bell = stack.enter_context(ThreadPoolExecutor(1, "bell"))
        service = Service(core, bell)
        sampling = asyncio.create_task(process_metrics.sample(service.pools))
        renewing = asyncio.create_task(_renew(core))
        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not walk it
        try:
            yield service
        finally:
            sampling.cancel()
            renewing.cancel()
            await service.close()


async def _renew(core: Backend) -> None:
    """Keep up with the lives that others claim, so that no former primary of Redis is taken for the present.

    Where PostgreSQL hangs, one thread waits for it.
    """
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            await asyncio.to_thread(core.acceptor.renew)
        except InstaChatError as error:  # PostgreSQL is away: `/` and `/readyz` say so
            logger.debug("the lives of Redis are not known anew: %s", error)
        except Exception:
            logger.exception("the lives of Redis can't be looked up")


def _open(settings: Settings, stack: ExitStack) -> Backend:
    """A core that connects when it is used: an engine that is away now may be back then."""
    at = stack.enter_context(addresses(settings))
    database = stack.enter_context(closing(Database(at.database)))
    log = open_log(
        settings,
        at,
        connect_seconds=REDIS_CONNECT_SECONDS,
        answer_seconds=REDIS_ANSWER_SECONDS,
    )
    stack.callback(log.close)
    with suppress(InstaChatError):  # read once, so that accepting needs no SQL from then on
        _ = database.installation
    core = assemble(settings, at, database, log)
    if core.index is not None:
        stack.callback(core.index.close)
    return core


async def here(request: HttpRequest) -> Service:
    """The service of the process that a request came to."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(here)]
