"""Creating chats and messages, one or a million, so that what was accepted can always be told.

Requests stream through in memory that does not grow: one is made, accepted, its numbers printed, forgotten.
Ctrl-C while one is being accepted takes effect when its answer is there; a second Ctrl-C at once.
"""

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from backend.domain import serialization
from backend.domain.errors import Failed, InstaChatError, Invalid, Unconfirmed, WaitTimedOut
from backend.domain.model import MAX_BATCH, Accepted
from backend.ingest.requests import AcceptRequest
from backend.runtime.signals import handling
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.options import WaitStage
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.progress import Progress
from instachat_cli.runtime.context import note_unstored, warn_if_not_durable

if TYPE_CHECKING:
    from backend.bootstrap import Backend


class RequestChunk(NamedTuple):
    """One request of many, how many it creates, and how far the source has been read after it."""

    request: AcceptRequest
    size: int
    read: int


def chats(token: str, count: int) -> Iterator[RequestChunk]:
    """Requests for so many chats."""
    done = 0
    while done < count:
        size = min(MAX_BATCH, count - done)
        done += size
        yield RequestChunk(AcceptRequest.chats(token, size), size, done)


class BulkCreator:
    """One command's creations under one parent: `one` or `many`, then `finish`."""

    def __init__(
        self,
        core: "Backend",
        printer: Printer,
        noun: str,
        token: str,
        chat: int | None = None,
    ) -> None:
        self._core = core
        self._printer = printer
        self._noun = noun
        self._token = token
        self._chat = chat
        self._count = 0
        self._ranges: list[tuple[int, int]] = []  # adjoining ones are one
        self._last: Accepted | None = None
        self._unconfirmed = 0

    def one(self, request: AcceptRequest) -> None:
        """Accept a single creation and print its number."""
        with self._report_on_interrupt(), _defer_interrupts():
            accepted = self._accept(request, 1)
            self._printer.outcome(
                serialization.number(accepted.first),
                f"accepted: {self._noun[:-1]} {accepted.first}",
            )

    def many(
        self, chunks: Iterable[RequestChunk], *, total: int | None, typed: bool = False
    ) -> int:
        """Accept chunk after chunk and print the numbers of each; returns how many were created.

        `total` is how much there is to read for the chunks, if that is known. `typed` if they come from the
        terminal.
        """
        with (
            self._report_on_interrupt(),
            self._report_on_failure(),
            Progress(self._noun, total, typed=typed) as progress,
            self._printer.stream(self._sentence, flush=True) as emit,
        ):
            for request, size, read in chunks:
                with _defer_interrupts():
                    accepted = self._accept(request, size)
                    emit(serialization.numbers(accepted.first, accepted.last))
                progress.update(self._count, read)
        return self._count

    def finish(self, until: WaitStage | None, seconds: float) -> None:
        """Wait for what was accepted, if asked to; else say what keeps it from being stored."""
        warn_if_not_durable(self._core)
        if until is None:
            note_unstored(self._core, self._token)
        elif self._last is not None:
            with self._report_on_interrupt():
                self._wait(until, self._last, seconds)

    def _wait(self, until: WaitStage, last: Accepted, seconds: float) -> None:
        catalog = self._core.catalog
        deadline = time.monotonic() + seconds
        if not catalog.wait_stored(last.shard, last.entry, seconds):
            paused = self._core.log.paused()
            reason = "while the job queue is paused" if paused else f"within {seconds:g} s"
            raise WaitTimedOut(
                f"not stored {reason}, and will be; accepted: {self._accepted_summary()}",
                "`instachat queue resume` lets it go on" if paused else "see `instachat status`",
            )
        for first, last_number in self._ranges:
            part = Accepted(first, last_number, last.shard, last.entry)
            catalog.check_stored(self._token, self._chat, part)
        if until is WaitStage.STORED or self._chat is None:  # only messages are searched
            return
        for first, last_number in self._ranges:
            left = max(0.0, deadline - time.monotonic())
            if not catalog.wait_searchable(self._token, self._chat, first, last_number, left):
                raise WaitTimedOut(
                    f"stored, but not searchable within {seconds:g} s, and will be; accepted:"
                    f" {self._accepted_summary()}",
                    "see `instachat status`: is Elasticsearch reachable?",
                )

    def _accept(self, request: AcceptRequest, size: int) -> Accepted:
        self._unconfirmed = size
        try:
            accepted = self._core.acceptor.accept(request)
        except Unconfirmed:
            raise
        except InstaChatError:
            self._unconfirmed = 0  # refused: nothing was accepted
            raise
        self._unconfirmed = 0
        self._count += size
        self._last = accepted
        if self._ranges and self._ranges[-1][1] + 1 == accepted.first:
            self._ranges[-1] = (self._ranges[-1][0], accepted.last)
        else:
            self._ranges.append((accepted.first, accepted.last))
        return accepted

    # -- telling -----------------------------------------------------------------------------------

    def _sentence(self, body: Body) -> str:
        return f"accepted: {self._noun} {body['first']} to {body['last']}"

    def _accepted_summary(self) -> str:
        """What was accepted until now."""
        if self._ranges:
            ranges = ", ".join(f"{a} to {b}" if a != b else f"{a}" for a, b in self._ranges[-10:])
            more = "…, " if len(self._ranges) > 10 else ""
            one = self._count == 1
            noun, numbers = (self._noun[:-1], "number") if one else (self._noun, "numbers")
            summary = f"{self._count:,} {noun}, {numbers} {more}{ranges}"
        else:
            summary = "nothing"
        if self._unconfirmed:
            summary += f"; it is not known whether {self._unconfirmed:,} more were accepted"
        return summary

    @contextmanager
    def _report_on_interrupt(self) -> Iterator[None]:
        """Whenever Ctrl-C comes, say what was accepted."""
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; accepted: {self._accepted_summary()}") from None

    @contextmanager
    def _report_on_failure(self) -> Iterator[None]:
        """Whatever goes wrong in the middle, say what was accepted before."""
        try:
            yield
        except BrokenPipeError:
            message = f"standard output was closed; accepted before: {self._accepted_summary()}"
            raise Failed(message) from None
        except InstaChatError as error:
            error.message += f"; accepted before: {self._accepted_summary()}"
            if self._ranges and isinstance(error, Invalid):
                note_unstored(self._core, self._token)
            raise


@contextmanager
def _defer_interrupts() -> Iterator[None]:
    """Ctrl-C inside takes effect at the end; a second one at once."""
    interrupts = 0

    def count_interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as with nohup
        yield
        return
    with handling(count_interrupt, signal.SIGINT):
        yield
    if interrupts:
        raise KeyboardInterrupt
