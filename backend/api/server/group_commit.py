"""Group commit: requests that arrive at about the same time are accepted in one call of Redis.

The event loop collects requests into a batch, sends it, and delivers the results. While Redis works on one
batch, the next one collects; so batches grow with the load, and the cost of each request falls. Under
`strict` durability, a batch shares one fsync. With enough waiting requests, a second batch is sent while
Redis still works on the first, so that neither Redis nor the event loop is idle; for the same reason a full
batch is sent in the middle of what the loop does. No request is answered before the call that accepted it
has returned.

An application has at most half of the places of the requests that wait, so the others' requests wait behind
MAX_WAITING_REQUESTS / 2 of it at most.

A thread makes the call where the reply of one connection is not enough (a cluster, replicas). Requests that
need more than this one call, for example because their counter is not verified in the current epoch, go to a
few separate threads, of which an application has at most half: a slow PostgreSQL delays only them.

The first requests of a process wait until the shards' cursors have been read from SQL, for a limited time: a
statement of a PostgreSQL that hangs never returns.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from backend.api.health import process_metrics
from backend.api.server.queue_shares import QueueShares
from backend.api.thread_shares import ThreadShares
from backend.domain.errors import Busy, EngineDown, InstaChatError, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.accept_async import AsyncAcceptClient

MAX_BATCH_REQUESTS = 512
MAX_WAITING_REQUESTS = 4_096  # of which an application has at most half; beyond this, Busy
MAX_CONCURRENT_CALLS = 2
MIN_CONCURRENT_BATCH = 16  # fewer requests wait for the running call to return
# So many are sent as soon as they are there: Redis works on them while the loop processes its other events.
FULL_BATCH = 24
STRICT_BATCH = 32  # instead of both under `strict`, where each call costs an fsync
RETRY_THREADS = 8
RETRY_TIMEOUT_SECONDS = 8.0
LOAD_TIMEOUT_SECONDS = 4.0  # of the shards' cursors
CLOSE_POLL_SECONDS = 0.005

AcceptCallback = Callable[[Accepted | Exception], None]
WaitingRequest = tuple[AcceptRequest, AcceptCallback]
Results = Sequence[Accepted | InstaChatError | None] | Exception
"""One result for each request of a batch, None for those to be retried; or one exception for all of them."""
logger = logging.getLogger(__name__)


class RunningCalls:
    """How many calls run of all group commits of an event loop, of which a cluster has one for each node."""

    def __init__(self) -> None:
        self.count = 0


class GroupCommit:
    """Accepts requests for one event loop. Not thread-safe."""

    def __init__(
        self,
        acceptor: Acceptor,
        clients: Sequence[AsyncAcceptClient],
        retry_threads: ThreadShares | None = None,
        *,
        strict: bool = False,
        all_calls: RunningCalls | None = None,
    ) -> None:
        """Each of `clients` makes one call at a time. Without any, a thread makes the calls.

        `strict`: Redis syncs its append-only file before it replies.
        `retry_threads` belong to the caller, who shuts them down.
        """
        self._acceptor = acceptor
        self._clients = tuple(clients)
        self._idle_clients = list(clients)
        self._min_concurrent_batch = STRICT_BATCH if strict else MIN_CONCURRENT_BATCH
        self._full_batch = STRICT_BATCH if strict else FULL_BATCH
        self._loop = asyncio.get_running_loop()
        self._accept_thread = ThreadPoolExecutor(1, "accept")
        self._owns_retry_threads = retry_threads is None
        self._retry_threads = retry_threads or make_retry_threads()
        self._shares = QueueShares(MAX_WAITING_REQUESTS, self._count_waiting)
        self._queue: list[WaitingRequest] = []
        self._running_calls = 0
        self._all_calls = all_calls or RunningCalls()
        self._dispatch_scheduled = False
        self._is_loading = False
        self._load_timer: asyncio.TimerHandle | None = None  # while requests wait for the cursors
        self._retrying = 0
        self._retrying_of: Counter[str] = Counter()  # by the application's token

    @property
    def waiting_requests(self) -> int:
        """How many requests are queued or retried. Excludes those of the running calls."""
        return len(self._queue) + self._retrying

    @property
    def is_accepting(self) -> bool:
        """Whether a request waits for a call, or for its reply."""
        return bool(self._queue or self._running_calls)

    async def accept(self, request: AcceptRequest) -> Accepted:
        """Accept one request; raises as `Acceptor.accept` does, and Busy.

        A request that is already sent is accepted even if this call is cancelled.
        """
        future: asyncio.Future[Accepted] = self._loop.create_future()
        self.submit(request, partial(_resolve, future))
        return await future

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        """Accept one request, then call `callback` with what `accept` returns or raises. Raises Busy."""
        if not self._shares.take(request.parent.token, self.waiting_requests):
            raise Busy("too many requests wait at this moment", "try again")
        self._queue.append((request, callback))
        if len(self._queue) >= self._full_batch and self._idle_clients:
            self._dispatch()
        else:
            self._dispatch_soon()

    async def close(self) -> None:
        """Wait for the requests and the running calls."""
        while self._queue or self._running_calls:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await asyncio.to_thread(self._accept_thread.shutdown)
        if self._owns_retry_threads:
            await asyncio.to_thread(self._retry_threads.shutdown, wait=True)
        for client in self._clients:
            await client.close()

    def _count_waiting(self) -> Counter[str]:
        return self._retrying_of + Counter(request.parent.token for request, _ in self._queue)

    def _dispatch_soon(self) -> None:
        """Dispatch after this iteration of the event loop, so that its other requests join the batch."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch_remaining)

    def _dispatch_remaining(self) -> None:
        self._dispatch_scheduled = False
        self._dispatch()

    def _dispatch(self) -> None:
        """Start a call if there are enough requests for one, and something to make it."""
        if not self._queue:
            return
        if self._running_calls and len(self._queue) < self._min_concurrent_batch:
            return
        if not self._acceptor.is_ready:
            self._load()
            return
        in_thread = not self._clients
        if self._running_calls if in_thread else not self._idle_clients:
            return
        batch = self._queue[:MAX_BATCH_REQUESTS]
        del self._queue[:MAX_BATCH_REQUESTS]
        self._shares.recount()
        self._running_calls += 1
        self._all_calls.count += 1
        if in_thread:
            self._accept_thread.submit(self._accept_in_thread, batch)
        else:
            client = self._idle_clients.pop()
            complete = partial(self._complete_on_loop, client, batch, time.perf_counter())
            try:
                self._acceptor.try_accept_soon([request for request, _ in batch], client, complete)
            except Exception as error:  # noqa: BLE001  # every request gets a result, whatever is raised
                complete(error)

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

    def _complete_on_loop(
        self,
        client: AsyncAcceptClient,
        batch: list[WaitingRequest],
        started_at: float,
        results: Results,
    ) -> None:
        self._idle_clients.append(client)
        self._complete(batch, results, time.perf_counter() - started_at)

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
        self._all_calls.count -= 1
        process_metrics.observe_accept(len(batch), seconds)
        if not isinstance(results, Exception) and all(map(_is_unavailable, results)):
            # Redis is away: another call would take as long and fail likewise.
            self._refuse_queue(EngineDown("Redis does not answer; nothing was accepted"))
        if self._all_calls.count > self._running_calls:
            # Another node works while the responses are written, and this one's next batch grows.
            self._deliver_all(batch, results)
            self._dispatch_soon()
        else:
            self._dispatch()  # first, so that Redis works while the responses are written
            self._deliver_all(batch, results)

    def _refuse_queue(self, error: Exception) -> None:
        """Answer the requests that wait for a call."""
        queue, self._queue = self._queue, []
        self._shares.recount()
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
        for parent, group in retries.items():
            self._retrying += len(group)
            self._retrying_of[parent.token] += len(group)
            timer = self._loop.call_later(RETRY_TIMEOUT_SECONDS, self._time_out, group)
            self._retry_threads.submit(parent.token, partial(self._retry, group, timer))
        self._shares.recount()

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
        token = group[0][0].parent.token
        self._retrying -= len(group)
        self._retrying_of[token] -= len(group)
        if not self._retrying_of[token]:
            del self._retrying_of[token]
        self._shares.recount()
        self._deliver_all(group, results)

    def _time_out(self, group: list[WaitingRequest]) -> None:
        """Answer the requests. The thread continues, may accept them, and its results are dropped."""
        for _, callback in group:
            _deliver(callback, Unconfirmed("this takes too long", "see `instachat status`"))


def make_retry_threads() -> ThreadShares:
    """The threads for requests that need more than one call."""
    threads = ThreadPoolExecutor(RETRY_THREADS, "retry")
    return ThreadShares(threads, RETRY_THREADS // 2, MAX_WAITING_REQUESTS)


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
