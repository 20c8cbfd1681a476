"""Group commit: the requests that wait at the same moment are accepted in one call.

The event loop gathers, accepts and answers. While one batch is in Redis the next gathers, so the busier it is
the larger the batches are, and the less each request costs; under `strict` a batch shares one fsync. Where
many wait, a second batch is sent while Redis still works on the first, so that neither waits for the other.
Nothing is answered before the call that accepted it has returned.

Where one answer is not all to wait for (a cluster, replicas), and before SQL has told what it has passed, a
thread makes the call. What needs more than that one call, as a counter that is not verified in this life of
Redis, goes to a few threads of its own: SQL, slow or away, holds up nobody else.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from backend.api.health import process_metrics
from backend.domain.errors import Busy, EngineDown, InstaChatError, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.accept_async import AsyncAcceptClient

MAX_BATCH_REQUESTS = 512  # requests in one call
MAX_WAITING_REQUESTS = 4_096  # requests; one more is refused at once
MAX_CONCURRENT_CALLS = 2  # under way at the same time
MIN_CONCURRENT_BATCH = (
    16  # requests that make it worth while to call while another call is under way
)
RETRY_THREADS = 8
RETRY_TIMEOUT_SECONDS = 8.0
CLOSE_POLL_SECONDS = 0.005

AnswerCallback = Callable[[Accepted | Exception], None]
WaitingRequest = tuple[AcceptRequest, AnswerCallback]
Results = Sequence[Accepted | InstaChatError | None] | Exception
logger = logging.getLogger(__name__)


class GroupCommit:
    """Accepts for one event loop; its methods belong there, but for the two that threads run."""

    def __init__(self, acceptor: Acceptor, logs: Sequence[AsyncAcceptClient]) -> None:
        """Each of `logs` makes one call at a time; without any a thread does."""
        self._acceptor = acceptor
        self._logs = tuple(logs)
        self._idle_logs = list(logs)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accept_thread = ThreadPoolExecutor(1, "accept")
        self._retry_threads = ThreadPoolExecutor(RETRY_THREADS, "retry")
        self._waiting: list[WaitingRequest] = []
        self._calls_under_way = 0  # calls
        self._dispatch_scheduled = False
        self._retrying = 0

    @property
    def waiting(self) -> int:
        """How many requests wait, but for those of the calls that are under way."""
        return len(self._waiting) + self._retrying

    async def accept(self, request: AcceptRequest) -> Accepted:
        """Accept one request; raises as `Acceptor.accept` does, and Busy.

        Cancelling it changes nothing for a request that is already on its way.
        """
        future: asyncio.Future[Accepted] = self._loop.create_future()
        self.submit(request, partial(_resolve, future))
        return await future

    def submit(self, request: AcceptRequest, answer: AnswerCallback) -> None:
        """Accept one request, and call `answer` with what `accept` returns or raises. Raises Busy."""
        if self.waiting >= MAX_WAITING_REQUESTS:
            raise Busy("too many requests wait at this moment", "try again")
        self._waiting.append((request, answer))
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            # What else has arrived in this turn of the loop comes along.
            self._loop.call_soon(self._dispatch)

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._calls_under_way or self._dispatch_scheduled:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await asyncio.to_thread(self._accept_thread.shutdown)
        await asyncio.to_thread(self._retry_threads.shutdown, cancel_futures=True)
        for log in self._logs:
            await log.close()

    def _dispatch(self) -> None:
        """Make a call, if any waits and if it is time for one."""
        self._dispatch_scheduled = False
        if not self._waiting or (
            self._calls_under_way and len(self._waiting) < MIN_CONCURRENT_BATCH
        ):
            return
        in_thread = not (self._logs and self._acceptor.is_ready)
        if self._calls_under_way if in_thread else not self._idle_logs:
            return
        batch = self._waiting[:MAX_BATCH_REQUESTS]
        del self._waiting[:MAX_BATCH_REQUESTS]
        self._calls_under_way += 1
        if in_thread:
            self._accept_thread.submit(self._accept_in_thread, batch)
        else:
            task = self._loop.create_task(self._accept_on_loop(self._idle_logs.pop(), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _accept_on_loop(self, log: AsyncAcceptClient, batch: list[WaitingRequest]) -> None:
        answers: Results
        try:
            with process_metrics.measure_accept(len(batch)):
                answers = await self._acceptor.try_accept_async(
                    [request for request, _ in batch], log
                )
        except Exception as error:  # noqa: BLE001  # every request is answered, whatever happens
            answers = error
        self._idle_logs.append(log)
        self._complete(batch, answers)

    def _accept_in_thread(self, batch: list[WaitingRequest]) -> None:
        """In the thread: accept, then hand the answers back."""
        answers: Results
        try:
            with process_metrics.measure_accept(len(batch)):
                answers = self._acceptor.try_accept([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001  # as above
            answers = error
        self._loop.call_soon_threadsafe(self._complete, batch, answers)

    def _complete(self, batch: list[WaitingRequest], answers: Results) -> None:
        self._calls_under_way -= 1
        if not isinstance(answers, Exception) and all(map(_is_unavailable, answers)):
            # Who waits now would wait as long again, for the same answer.
            waiting, self._waiting = self._waiting, []
            for _, callback in waiting:
                _deliver(callback, EngineDown("Redis does not answer; nothing was accepted"))
        self._dispatch()  # before anything else: Redis is to work while the answers are written
        self._deliver_all(batch, answers)

    def _deliver_all(self, batch: list[WaitingRequest], answers: Results) -> None:
        retries: dict[Parent, list[WaitingRequest]] = {}
        for index, (request, callback) in enumerate(batch):
            answer = answers if isinstance(answers, Exception) else answers[index]
            if answer is None:
                retries.setdefault(request.parent, []).append((request, _only_once(callback)))
            else:
                _deliver(callback, answer)
        for group in retries.values():
            self._retrying += len(group)
            timer = self._loop.call_later(RETRY_TIMEOUT_SECONDS, self._time_out, group)
            self._retry_threads.submit(self._retry, group, timer)

    def _retry(self, group: list[WaitingRequest], timer: asyncio.TimerHandle) -> None:
        """In a thread: as `_accept_in_thread`, and all that has to be done before."""
        answers: Results
        try:
            answers = self._acceptor.accept_batch([request for request, _ in group])
        except Exception as error:  # noqa: BLE001  # as above
            answers = error
        self._loop.call_soon_threadsafe(self._complete_retry, group, answers, timer)

    def _complete_retry(
        self, group: list[WaitingRequest], answers: Results, timer: asyncio.TimerHandle
    ) -> None:
        timer.cancel()
        self._retrying -= len(group)
        self._deliver_all(group, answers)

    def _time_out(self, group: list[WaitingRequest]) -> None:
        """The thread goes on, and its answers are nobody's: they may be acceptances."""
        for _, callback in group:
            _deliver(callback, Unconfirmed("this takes too long", "see `instachat status`"))


def _is_unavailable(answer: Accepted | InstaChatError | None) -> bool:
    return isinstance(answer, EngineDown | Unconfirmed)


def _deliver(callback: AnswerCallback, answer: Accepted | Exception) -> None:
    """One that can't be told keeps the answer from nobody else."""
    try:
        callback(answer)
    except Exception:
        logger.exception("an answer was not told")


def _only_once(callback: AnswerCallback) -> AnswerCallback:
    """The first answer is told, and no other."""
    remaining = [callback]

    def call_first(answer: Accepted | Exception) -> None:
        if remaining:
            remaining.pop()(answer)

    return call_first


def _resolve(future: "asyncio.Future[Accepted]", answer: Accepted | Exception) -> None:
    if future.done():  # its client went away
        return
    if isinstance(answer, Accepted):
        future.set_result(answer)
    else:
        future.set_exception(answer)
