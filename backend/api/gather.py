"""Group commit: the requests that wait at the same moment are accepted in one call.

The event loop gathers, accepts and answers. While one batch is in Redis the next gathers, so the busier it is
the larger the batches are, and the less each request costs; under `strict` a batch shares one fsync. Nothing
is answered before the call that accepted it has returned.

Where one answer is not all to wait for (a cluster, replicas), and before SQL has told what it has passed, a
thread makes the call. What needs more than that one call, as a counter that is not verified in this life of
Redis, goes to a few threads of its own: SQL, slow or away, holds up nobody else.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from backend.accept import Acceptor, Request
from backend.api import measures
from backend.errors import EngineDown, InstaChatError, Unavailable, Unconfirmed
from backend.log.asynchronous import AsyncAccepting
from backend.model import Accepted, Parent

MOST_AT_ONCE = 512  # requests in one call
MOST_WAITING = 4_096  # requests; one more is refused at once
MEND_THREADS = 8
MEND_SECONDS = 8.0
CLOSE_POLL_SECONDS = 0.005

Waiting = tuple[Request, "asyncio.Future[Accepted]"]
Answers = Sequence[Accepted | InstaChatError | None] | Exception


class Busy(Unavailable):
    """Too much waits already; nothing was accepted."""


class Gatherer:
    """Accepts for one event loop; its methods belong there, but for the two that threads run."""

    def __init__(self, acceptor: Acceptor, log: AsyncAccepting | None) -> None:
        """Without `log` threads make all calls."""
        self._acceptor = acceptor
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._attempt: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "accept")
        self._menders = ThreadPoolExecutor(MEND_THREADS, "mend")
        self._waiting: list[Waiting] = []
        self._flying = False
        self._mending = 0

    @property
    def waiting(self) -> int:
        """How many requests wait, but for those of the call that is under way."""
        return len(self._waiting) + self._mending

    async def accept(self, request: Request) -> Accepted:
        """Accept one request; raises as `Acceptor.accept` does, and Busy.

        Cancelling it changes nothing for a request that is already on its way.
        """
        if self.waiting >= MOST_WAITING:
            raise Busy("too many requests wait at this moment", "try again")
        future: asyncio.Future[Accepted] = self._loop.create_future()
        self._waiting.append((request, future))
        if not self._flying:
            self._flying = True
            # What else has arrived in this turn of the loop comes along.
            self._loop.call_soon(self._fly)
        return await future

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._flying:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._menders.shutdown, cancel_futures=True)
        if self._log:
            await self._log.close()

    def _fly(self) -> None:
        batch = self._waiting[:MOST_AT_ONCE]
        del self._waiting[:MOST_AT_ONCE]
        if self._log and self._acceptor.is_ready:
            self._attempt = self._loop.create_task(self._accept_here(self._log, batch))
        else:
            self._thread.submit(self._accept, batch)

    async def _accept_here(self, log: AsyncAccepting, batch: list[Waiting]) -> None:
        answers: Answers
        try:
            with measures.accepting(len(batch)):
                answers = await self._acceptor.attempt_async([request for request, _ in batch], log)
        except Exception as error:  # noqa: BLE001  # every request is answered, whatever happens
            answers = error
        self._landed(batch, answers)

    def _accept(self, batch: list[Waiting]) -> None:
        """In the thread: accept, then hand the answers back."""
        answers: Answers
        try:
            with measures.accepting(len(batch)):
                answers = self._acceptor.attempt([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001  # as above
            answers = error
        self._loop.call_soon_threadsafe(self._landed, batch, answers)

    def _landed(self, batch: list[Waiting], answers: Answers) -> None:
        if not isinstance(answers, Exception) and all(map(_is_away, answers)):
            # Who waits now would wait as long again, for the same answer.
            for _, future in self._waiting:
                _answer(future, EngineDown("Redis does not answer; nothing was accepted"))
            self._waiting.clear()
        self._answer(batch, answers)
        if self._waiting:
            self._fly()
        else:
            self._flying = False

    def _answer(self, batch: list[Waiting], answers: Answers) -> None:
        left: dict[Parent, list[Waiting]] = {}
        for place, (request, future) in enumerate(batch):
            answer = answers if isinstance(answers, Exception) else answers[place]
            if answer is None:
                left.setdefault(request.creation.parent, []).append((request, future))
            else:
                _answer(future, answer)
        for part in left.values():
            self._mending += len(part)
            self._menders.submit(self._mend, part)
            self._loop.call_later(MEND_SECONDS, self._give_up, part)

    def _mend(self, part: list[Waiting]) -> None:
        """In a thread: as `_accept`, and all that has to be done before."""
        answers: Answers
        try:
            answers = self._acceptor.accept_batch([request for request, _ in part])
        except Exception as error:  # noqa: BLE001  # as above
            answers = error
        self._loop.call_soon_threadsafe(self._mended, part, answers)

    def _mended(self, part: list[Waiting], answers: Answers) -> None:
        self._mending -= len(part)
        self._answer(part, answers)

    def _give_up(self, part: list[Waiting]) -> None:
        """The thread goes on, and its answers are nobody's: they may be acceptances."""
        for _, future in part:
            _answer(future, Unconfirmed("this takes too long", "see `instachat status`"))


def _is_away(answer: Accepted | InstaChatError | None) -> bool:
    return isinstance(answer, EngineDown | Unconfirmed)


def _answer(future: "asyncio.Future[Accepted]", answer: Accepted | Exception) -> None:
    if future.done():  # its client went away
        return
    if isinstance(answer, Accepted):
        future.set_result(answer)
    else:
        future.set_exception(answer)
