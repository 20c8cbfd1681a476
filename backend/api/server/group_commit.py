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
from backend.ingest.accept import Acceptor, Request
from backend.storage.redis.accept_async import AsyncAccepting

MOST_AT_ONCE = 512  # requests in one call
MOST_WAITING = 4_096  # requests; one more is refused at once
CALLS = 2  # under way at the same time
WORTH_ANOTHER = 16  # requests that make it worth while to call while another call is under way
MEND_THREADS = 8
MEND_SECONDS = 8.0
CLOSE_POLL_SECONDS = 0.005

Answer = Callable[[Accepted | Exception], None]
Waiting = tuple[Request, Answer]
Answers = Sequence[Accepted | InstaChatError | None] | Exception
logger = logging.getLogger(__name__)


class Gatherer:
    """Accepts for one event loop; its methods belong there, but for the two that threads run."""

    def __init__(self, acceptor: Acceptor, logs: Sequence[AsyncAccepting]) -> None:
        """Each of `logs` makes one call at a time; without any a thread does."""
        self._acceptor = acceptor
        self._logs = tuple(logs)
        self._free = list(logs)
        self._loop = asyncio.get_running_loop()
        self._attempts: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "accept")
        self._menders = ThreadPoolExecutor(MEND_THREADS, "mend")
        self._waiting: list[Waiting] = []
        self._flying = 0  # calls
        self._about_to = False
        self._mending = 0

    @property
    def waiting(self) -> int:
        """How many requests wait, but for those of the calls that are under way."""
        return len(self._waiting) + self._mending

    async def accept(self, request: Request) -> Accepted:
        """Accept one request; raises as `Acceptor.accept` does, and Busy.

        Cancelling it changes nothing for a request that is already on its way.
        """
        future: asyncio.Future[Accepted] = self._loop.create_future()
        self.submit(request, partial(_settle, future))
        return await future

    def submit(self, request: Request, answer: Answer) -> None:
        """Accept one request, and call `answer` with what `accept` returns or raises. Raises Busy."""
        if self.waiting >= MOST_WAITING:
            raise Busy("too many requests wait at this moment", "try again")
        self._waiting.append((request, answer))
        if not self._about_to:
            self._about_to = True
            # What else has arrived in this turn of the loop comes along.
            self._loop.call_soon(self._fly)

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._flying or self._about_to:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._menders.shutdown, cancel_futures=True)
        for log in self._logs:
            await log.close()

    def _fly(self) -> None:
        """Make a call, if any waits and if it is time for one."""
        self._about_to = False
        if not self._waiting or (self._flying and len(self._waiting) < WORTH_ANOTHER):
            return
        by_thread = not (self._logs and self._acceptor.is_ready)
        if self._flying if by_thread else not self._free:
            return
        batch = self._waiting[:MOST_AT_ONCE]
        del self._waiting[:MOST_AT_ONCE]
        self._flying += 1
        if by_thread:
            self._thread.submit(self._accept, batch)
        else:
            attempt = self._loop.create_task(self._accept_here(self._free.pop(), batch))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)

    async def _accept_here(self, log: AsyncAccepting, batch: list[Waiting]) -> None:
        answers: Answers
        try:
            with process_metrics.accepting(len(batch)):
                answers = await self._acceptor.attempt_async([request for request, _ in batch], log)
        except Exception as error:  # noqa: BLE001  # every request is answered, whatever happens
            answers = error
        self._free.append(log)
        self._landed(batch, answers)

    def _accept(self, batch: list[Waiting]) -> None:
        """In the thread: accept, then hand the answers back."""
        answers: Answers
        try:
            with process_metrics.accepting(len(batch)):
                answers = self._acceptor.attempt([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001  # as above
            answers = error
        self._loop.call_soon_threadsafe(self._landed, batch, answers)

    def _landed(self, batch: list[Waiting], answers: Answers) -> None:
        self._flying -= 1
        if not isinstance(answers, Exception) and all(map(_is_away, answers)):
            # Who waits now would wait as long again, for the same answer.
            waiting, self._waiting = self._waiting, []
            for _, tell in waiting:
                _tell(tell, EngineDown("Redis does not answer; nothing was accepted"))
        self._fly()  # before anything else: Redis is to work while the answers are written
        self._answer(batch, answers)

    def _answer(self, batch: list[Waiting], answers: Answers) -> None:
        left: dict[Parent, list[Waiting]] = {}
        for place, (request, tell) in enumerate(batch):
            answer = answers if isinstance(answers, Exception) else answers[place]
            if answer is None:
                left.setdefault(request.parent, []).append((request, _once(tell)))
            else:
                _tell(tell, answer)
        for part in left.values():
            self._mending += len(part)
            timer = self._loop.call_later(MEND_SECONDS, self._give_up, part)
            self._menders.submit(self._mend, part, timer)

    def _mend(self, part: list[Waiting], timer: asyncio.TimerHandle) -> None:
        """In a thread: as `_accept`, and all that has to be done before."""
        answers: Answers
        try:
            answers = self._acceptor.accept_batch([request for request, _ in part])
        except Exception as error:  # noqa: BLE001  # as above
            answers = error
        self._loop.call_soon_threadsafe(self._mended, part, answers, timer)

    def _mended(self, part: list[Waiting], answers: Answers, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._mending -= len(part)
        self._answer(part, answers)

    def _give_up(self, part: list[Waiting]) -> None:
        """The thread goes on, and its answers are nobody's: they may be acceptances."""
        for _, tell in part:
            _tell(tell, Unconfirmed("this takes too long", "see `instachat status`"))


def _is_away(answer: Accepted | InstaChatError | None) -> bool:
    return isinstance(answer, EngineDown | Unconfirmed)


def _tell(tell: Answer, answer: Accepted | Exception) -> None:
    """One that can't be told keeps the answer from nobody else."""
    try:
        tell(answer)
    except Exception:
        logger.exception("an answer was not told")


def _once(tell: Answer) -> Answer:
    """The first answer is told, and no other."""
    untold = [tell]

    def tell_first(answer: Accepted | Exception) -> None:
        if untold:
            untold.pop()(answer)

    return tell_first


def _settle(future: "asyncio.Future[Accepted]", answer: Accepted | Exception) -> None:
    if future.done():  # its client went away
        return
    if isinstance(answer, Accepted):
        future.set_result(answer)
    else:
        future.set_exception(answer)
