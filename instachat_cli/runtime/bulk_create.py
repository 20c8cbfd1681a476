"""Creation of chats and messages, one or a million, that always reports which numbers were accepted.

Requests are streamed in constant memory. Ctrl-C takes effect after the request in progress is answered; a
second Ctrl-C takes effect immediately.
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
    """One of many requests, how many items it creates, and how much of the source was read up to its end."""

    request: AcceptRequest
    size: int
    read: int


def chats(token: str, count: int) -> Iterator[RequestChunk]:
    """Requests that create `count` chats."""
    done = 0
    while done < count:
        size = min(MAX_BATCH, count - done)
        done += size
        yield RequestChunk(AcceptRequest.chats(token, size), size, done)


class BulkCreator:
    """The creations of one command under one parent: call `one` or `many`, then `finish`."""

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
        self._ranges: list[tuple[int, int]] = []  # adjacent ranges are merged
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
        """Accept each chunk and print its numbers; returns how many items were created.

        `total` is the size of the chunks' source, if known; `typed` if that is the terminal.
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
        """Wait until the accepted items reach `until`, or note if something keeps them from being stored."""
        warn_if_not_durable(self._core)
        if until is None:
            note_unstored(self._core, self._token)
        elif self._last is not None:
            with self._report_on_interrupt():
                self._wait(until, self._last, seconds)

    def _wait(self, until: WaitStage, last: Accepted, seconds: float) -> None:
        catalog = self._core.catalog
        deadline = time.monotonic() + seconds
        if not catalog.waiting.wait_stored(self._token, last, seconds):
            paused = self._core.workers.paused()
            reason = "while the job queue is paused" if paused else f"within {seconds:g} s"
            raise WaitTimedOut(
                f"not stored {reason} (it will be stored later); accepted: {self._accepted_summary()}",
                "run `instachat queue resume`" if paused else "see `instachat status`",
            )
        for first, last_number in self._ranges:
            part = Accepted(first, last_number, last.shard, last.entry)
            catalog.messages.check_stored(self._token, self._chat, part)
        if until is WaitStage.STORED or self._chat is None:  # chats are not searched
            return
        for first, last_number in self._ranges:
            left = max(0.0, deadline - time.monotonic())
            if not catalog.messages.wait_searchable(
                self._token, self._chat, first, last_number, left
            ):
                raise WaitTimedOut(
                    f"stored, but not searchable within {seconds:g} s (it will be later); accepted:"
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

    def _sentence(self, body: Body) -> str:
        return f"accepted: {self._noun} {body['first']} to {body['last']}"

    def _accepted_summary(self) -> str:
        """The items accepted so far, and those whose acceptance is unknown."""
        if self._ranges:
            ranges = ", ".join(f"{a} to {b}" if a != b else f"{a}" for a, b in self._ranges[-10:])
            more = "…, " if len(self._ranges) > 10 else ""
            one = self._count == 1
            noun, numbers = (self._noun[:-1], "number") if one else (self._noun, "numbers")
            summary = f"{self._count:,} {noun}, {numbers} {more}{ranges}"
        else:
            summary = "nothing"
        if self._unconfirmed:
            summary += f"; {self._unconfirmed:,} more may have been accepted"
        return summary

    @contextmanager
    def _report_on_interrupt(self) -> Iterator[None]:
        """Turn Ctrl-C into Interrupted, with the accepted items."""
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; accepted: {self._accepted_summary()}") from None

    @contextmanager
    def _report_on_failure(self) -> Iterator[None]:
        """Add the items accepted before a failure to its message."""
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
    """Delay Ctrl-C until the end of the block; a second one takes effect immediately."""
    interrupts = 0

    def count_interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as by nohup
        yield
        return
    with handling(count_interrupt, signal.SIGINT):
        yield
    if interrupts:
        raise KeyboardInterrupt
