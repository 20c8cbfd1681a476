"""Group commit: requests that arrive at about the same time are accepted in one call of Redis.

The event loop collects requests into a batch, sends it, and delivers the results. While Redis works on one
batch, the next one collects; so batches grow with the load, and the cost of each request falls. Under
`strict` durability, a batch shares one fsync. With enough waiting requests, a second batch is sent while
Redis still works on the first, so that neither Redis nor the event loop is idle. No request is answered
before the call that accepted it has returned.

A thread makes the call where the reply of one connection is not enough (a cluster, replicas). Requests that
need more than this one call, for example because their counter is not verified in the current epoch, go to a
few separate threads: a slow PostgreSQL delays only them.

The first requests of a process wait until the shards' cursors have been read from SQL, for a limited time: a
statement of a PostgreSQL that hangs never returns.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from backend.api.health import process_metrics
from backend.domain.errors import Busy, EngineDown, InstaChatError, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.accept_async import AsyncAcceptClient

MAX_BATCH_REQUESTS = 512
MAX_WAITING_REQUESTS = 4_096  # beyond this, Busy
MAX_CONCURRENT_CALLS = 2
MIN_CONCURRENT_BATCH = 16  # fewer requests wait for the running call to return
RETRY_THREADS = 8
RETRY_TIMEOUT_SECONDS = 8.0
LOAD_TIMEOUT_SECONDS = 4.0  # of the shards' cursors
CLOSE_POLL_SECONDS = 0.005

AcceptCallback = Callable[[Accepted | Exception], None]
WaitingRequest = tuple[AcceptRequest, AcceptCallback]
Results = Sequence[Accepted | InstaChatError | None] | Exception
"""One result for each request of a batch, None for those to be retried; or one exception for all of them."""
logger = logging.getLogger(__name__)


class GroupCommit:
    """Accepts requests for one event loop. Not thread-safe."""

    def __init__(
        self,
        acceptor: Acceptor,
        clients: Sequence[AsyncAcceptClient],
        retry_threads: ThreadPoolExecutor | None = None,
    ) -> None:
        """Each of `clients` makes one call at a time. Without any, a thread makes the calls.

        `retry_threads` belong to the caller, who shuts them down.
        """
        self._acceptor = acceptor
        self._clients = tuple(clients)
        self._idle_clients = list(clients)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accept_thread = ThreadPoolExecutor(1, "accept")
        self._owns_retry_threads = retry_threads is None
        self._retry_threads = retry_threads or ThreadPoolExecutor(RETRY_THREADS, "retry")
        self._queue: list[WaitingRequest] = []
        self._running_calls = 0
        self._dispatch_scheduled = False
        self._is_loading = False
        self._load_timer: asyncio.TimerHandle | None = None  # while requests wait for the cursors
        self._retrying = 0

    @property
    def waiting_requests(self) -> int:
        """How many requests are queued or retried. Excludes those of the running calls."""
        return len(self._queue) + self._retrying

    async def accept(self, request: AcceptRequest) -> Accepted:
        """Accept one request; raises as `Acceptor.accept` does, and Busy.

        A request that is already sent is accepted even if this call is cancelled.
        """
        future: asyncio.Future[Accepted] = self._loop.create_future()
        self.submit(request, partial(_resolve, future))
        return await future

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        """Accept one request, then call `callback` with what `accept` returns or raises. Raises Busy."""
        if self.waiting_requests >= MAX_WAITING_REQUESTS:
            raise Busy("too many requests wait at this moment", "try again")
        self._queue.append((request, callback))
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            # After this iteration of the event loop, so that its other requests join the batch.
            self._loop.call_soon(self._dispatch)

    async def close(self) -> None:
        """Wait for the requests and the running calls."""
        while self._queue or self._running_calls:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await asyncio.to_thread(self._accept_thread.shutdown)
        if self._owns_retry_threads:
            await asyncio.to_thread(self._retry_threads.shutdown, cancel_futures=True)
        for client in self._clients:
            await client.close()

    def _dispatch(self) -> None:
        """Start a call if there are enough requests for one, and something to make it."""
        self._dispatch_scheduled = False
        if not self._queue or (self._running_calls and len(self._queue) < MIN_CONCURRENT_BATCH):
            return
        if not self._acceptor.is_ready:
            self._load()
            return
        in_thread = not self._clients
        if self._running_calls if in_thread else not self._idle_clients:
            return
        batch = self._queue[:MAX_BATCH_REQUESTS]
        del self._queue[:MAX_BATCH_REQUESTS]
        self._running_calls += 1
        if in_thread:
            self._accept_thread.submit(self._accept_in_thread, batch)
        else:
            task = self._loop.create_task(self._accept_on_loop(self._idle_clients.pop(), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _load(self) -> None:
        """Read the shards' cursors, then start a call. Requests that wait too long for that are refused."""
        if self._load_timer is None:
            self._load_timer = self._loop.call_later(LOAD_TIMEOUT_SECONDS, self._time_out_load)
        if not self._is_loading:  # one thread waits, however long that takes
            self._is_loading = True
            loading = self._loop.run_in_executor(self._accept_thread, self._acceptor.refresh)
            loading.add_done_callback(self._complete_load)

    def _complete_load(self, loading: asyncio.Future[None]) -> None:
        self._is_loading = False
        if self._load_timer is not None:
            self._load_timer.cancel()
            self._load_timer = None
        if error := loading.exception():
            assert isinstance(error, Exception)
            self._refuse_queue(error)
        else:
            self._dispatch()

    def _time_out_load(self) -> None:
        self._load_timer = None
        if self._acceptor.is_ready:  # read by another thread meanwhile
            self._dispatch()
        else:
            self._refuse_queue(EngineDown("PostgreSQL does not answer; nothing was accepted"))

    async def _accept_on_loop(self, client: AsyncAcceptClient, batch: list[WaitingRequest]) -> None:
        results: Results
        started_at = time.perf_counter()
        try:
            results = await self._acceptor.try_accept_async(
                [request for request, _ in batch], client
            )
        except Exception as error:  # noqa: BLE001  # every request gets a result, whatever is raised
            results = error
        seconds = time.perf_counter() - started_at
        self._idle_clients.append(client)
        self._complete(batch, results, seconds)

    def _accept_in_thread(self, batch: list[WaitingRequest]) -> None:
        """Runs in the accept thread."""
        results: Results
        started_at = time.perf_counter()
        try:
            results = self._acceptor.try_accept([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001  # as above
            results = error
        seconds = time.perf_counter() - started_at
        self._loop.call_soon_threadsafe(self._complete, batch, results, seconds)

    def _complete(self, batch: list[WaitingRequest], results: Results, seconds: float) -> None:
        """Deliver what a call returned after so many seconds."""
        self._running_calls -= 1
        process_metrics.observe_accept(len(batch), seconds)
        if not isinstance(results, Exception) and all(map(_is_unavailable, results)):
            # Redis is away: another call would take as long and fail likewise.
            self._refuse_queue(EngineDown("Redis does not answer; nothing was accepted"))
        self._dispatch()  # first, so that Redis works while the responses are written
        self._deliver_all(batch, results)

    def _refuse_queue(self, error: Exception) -> None:
        """Answer the requests that wait for a call."""
        queue, self._queue = self._queue, []
        for _, callback in queue:
            _deliver(callback, error)

    def _deliver_all(self, batch: list[WaitingRequest], results: Results) -> None:
        if isinstance(results, Exception):
            for _, callback in batch:
                _deliver(callback, results)
            return
        retries: dict[Parent, list[WaitingRequest]] = {}
        for (request, callback), result in zip(batch, results, strict=True):
            if result is None:
                retries.setdefault(request.parent, []).append((request, _only_once(callback)))
            else:
                _deliver(callback, result)
        for group in retries.values():
            self._retrying += len(group)
            timer = self._loop.call_later(RETRY_TIMEOUT_SECONDS, self._time_out, group)
            self._retry_threads.submit(self._retry, group, timer)

    def _retry(self, group: list[WaitingRequest], timer: asyncio.TimerHandle) -> None:
        """Runs in a retry thread: accept requests of one parent, and do first what that needs."""
        results: Results
        try:
            results = self._acceptor.accept_batch([request for request, _ in group])
        except Exception as error:  # noqa: BLE001  # as above
            results = error
        self._loop.call_soon_threadsafe(self._complete_retry, group, results, timer)

    def _complete_retry(
        self, group: list[WaitingRequest], results: Results, timer: asyncio.TimerHandle
    ) -> None:
        timer.cancel()
        self._retrying -= len(group)
        self._deliver_all(group, results)

    def _time_out(self, group: list[WaitingRequest]) -> None:
        """Answer the requests. The thread continues, may accept them, and its results are dropped."""
        for _, callback in group:
            _deliver(callback, Unconfirmed("this takes too long", "see `instachat status`"))


def _is_unavailable(result: Accepted | InstaChatError | None) -> bool:
    return isinstance(result, EngineDown | Unconfirmed)


def _deliver(callback: AcceptCallback, result: Accepted | Exception) -> None:
    """Call one request's callback; if it raises, the other requests still get their results."""
    try:
        callback(result)
    except Exception:
        logger.exception("a result could not be delivered")


def _only_once(callback: AcceptCallback) -> AcceptCallback:
    """A callback that passes on its first result and drops any other."""
    remaining = [callback]

    def call_first(result: Accepted | Exception) -> None:
        if remaining:
            remaining.pop()(result)

    return call_first


def _resolve(future: "asyncio.Future[Accepted]", result: Accepted | Exception) -> None:
    if future.done():  # the client has disconnected
        return
    if isinstance(result, Accepted):
        future.set_result(result)
    else:
        future.set_exception(result)
