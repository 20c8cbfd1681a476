"""Group commit: the requests that wait at the same moment are accepted in one call.

The event loop gathers, a thread accepts, the event loop answers. While one batch is in Redis the next
gathers, so the busier it is the larger the batches are, and the less each request costs; under `strict` a
batch shares one fsync. Nothing is answered before the call that accepted it has returned.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from backend.accept import Acceptor, Request
from backend.errors import InstaChatError, Unavailable
from backend.model import Accepted

MOST_AT_ONCE = 512  # requests in one call
MOST_WAITING = 4_096  # beyond it a request is refused at once

Answer = Accepted | InstaChatError


class Busy(Unavailable):
    """Too many requests wait already; nothing was accepted."""


class Gatherer:
    """Accepts for one event loop; all its methods belong there."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "accept")
        self._waiting: list[tuple[Request, asyncio.Future[Accepted]]] = []
        self._flying = False

    async def accept(self, request: Request) -> Accepted:
        """Accept one request; raises as `Acceptor.accept` does, and Busy.

        Cancelling it changes nothing for a request that is already on its way.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Busy("too many requests wait at this moment", "try again")
        future: asyncio.Future[Accepted] = self._loop.create_future()
        self._waiting.append((request, future))
        if not self._flying:
            self._flying = True
            # What else has arrived in this turn of the loop comes along.
            self._loop.call_soon(self._fly)
        return await future

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    def _fly(self) -> None:
        batch = self._waiting[:MOST_AT_ONCE]
        del self._waiting[:MOST_AT_ONCE]
        self._thread.submit(self._accept, batch)

    def _accept(self, batch: list[tuple[Request, "asyncio.Future[Accepted]"]]) -> None:
        """In the thread: accept, then hand the answers back."""
        answers: Sequence[Answer] | Exception
        try:
            answers = self._acceptor.accept_batch([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001  # every request is answered, whatever happens
            answers = error
        self._loop.call_soon_threadsafe(self._landed, batch, answers)

    def _landed(
        self,
        batch: list[tuple[Request, "asyncio.Future[Accepted]"]],
        answers: Sequence[Answer] | Exception,
    ) -> None:
        if self._waiting:
            self._fly()
        else:
            self._flying = False
        if isinstance(answers, Exception):
            answers = [answers] * len(batch)  # type: ignore[list-item]
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():  # its client went away
                continue
            if isinstance(answer, Accepted):
                future.set_result(answer)
            else:
                future.set_exception(answer)
