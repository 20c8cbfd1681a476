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
from backend.ingest import accept
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.options import Until
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.progress import Progress
from instachat_cli.runtime.context import note_unstored, warn_if_not_durable

if TYPE_CHECKING:
    from backend.bootstrap import Backend


class Chunk(NamedTuple):
    """One request of many, how many it creates, and how far the source has been read after it."""

    request: accept.Request
    size: int
    read: int


def chats(token: str, count: int) -> Iterator[Chunk]:
    """Requests for so many chats."""
    done = 0
    while done < count:
        size = min(MAX_BATCH, count - done)
        done += size
        yield Chunk(accept.chats(token, size), size, done)


class Creating:
    """One command's creations under one parent: `one` or `many`, then `finish`."""

    def __init__(
        self,
        core: "Backend",
        printer: Printer,
        what: str,
        token: str,
        chat: int | None = None,
    ) -> None:
        self._core = core
        self._printer = printer
        self._what = what
        self._token = token
        self._chat = chat
        self._count = 0
        self._ranges: list[tuple[int, int]] = []  # adjoining ones are one
        self._last: Accepted | None = None
        self._unknown = 0

    def one(self, request: accept.Request) -> None:
        """Accept a single creation and print its number."""
        with self._interruption_told(), _interrupts_held():
            accepted = self._accept(request, 1)
            self._printer.outcome(
                serialization.number(accepted.first),
                f"accepted: {self._what[:-1]} {accepted.first}",
            )

    def many(self, chunks: Iterable[Chunk], *, total: int | None) -> int:
        """Accept chunk after chunk and print the numbers of each; returns how many were created.

        `total` is how much there is to read for the chunks, if that is known.
        """
        with (
            self._interruption_told(),
            self._failure_told(),
            Progress(self._what, total) as progress,
            self._printer.stream(self._sentence, flush=True) as emit,
        ):
            for request, size, read in chunks:
                with _interrupts_held():
                    accepted = self._accept(request, size)
                    emit(serialization.numbers(accepted.first, accepted.last))
                progress.update(self._count, read)
        return self._count

    def finish(self, until: Until | None, seconds: float) -> None:
        """Wait for what was accepted, if asked to; else say what keeps it from being stored."""
        warn_if_not_durable(self._core)
        if until is None:
            note_unstored(self._core, self._token)
        elif self._last is not None:
            with self._interruption_told():
                self._wait(until, self._last, seconds)

    def _wait(self, until: Until, last: Accepted, seconds: float) -> None:
        catalog = self._core.catalog
        deadline = time.monotonic() + seconds
        if not catalog.wait_stored(last.shard, last.entry, seconds):
            paused = self._core.log.paused()
            why = "while the job queue is paused" if paused else f"within {seconds:g} s"
            raise WaitTimedOut(
                f"not stored {why}, and will be; accepted: {self._so_far()}",
                "`instachat queue resume` lets it go on" if paused else "see `instachat status`",
            )
        for first, last_number in self._ranges:
            part = Accepted(first, last_number, last.shard, last.entry)
            catalog.check_stored(self._token, self._chat, part)
        if until is Until.STORED or self._chat is None:  # only messages are searched
            return
        for first, last_number in self._ranges:
            left = max(0.0, deadline - time.monotonic())
            if not catalog.wait_searchable(self._token, self._chat, first, last_number, left):
                raise WaitTimedOut(
                    f"stored, but not searchable within {seconds:g} s, and will be; accepted:"
                    f" {self._so_far()}",
                    "see `instachat status`: is Elasticsearch reachable?",
                )

    def _accept(self, request: accept.Request, size: int) -> Accepted:
        self._unknown = size
        try:
            accepted = self._core.acceptor.accept(request)
        except Unconfirmed:
            raise
        except InstaChatError:
            self._unknown = 0  # refused: nothing was accepted
            raise
        self._unknown = 0
        self._count += size
        self._last = accepted
        if self._ranges and self._ranges[-1][1] + 1 == accepted.first:
            self._ranges[-1] = (self._ranges[-1][0], accepted.last)
        else:
            self._ranges.append((accepted.first, accepted.last))
        return accepted

    # -- telling -----------------------------------------------------------------------------------

    def _sentence(self, body: Body) -> str:
        return f"accepted: {self._what} {body['first']} to {body['last']}"

    def _so_far(self) -> str:
        """What was accepted until now."""
        if self._ranges:
            ranges = ", ".join(f"{a} to {b}" if a != b else f"{a}" for a, b in self._ranges[-10:])
            more = "…, " if len(self._ranges) > 10 else ""
            one = self._count == 1
            noun, numbers = (self._what[:-1], "number") if one else (self._what, "numbers")
            said = f"{self._count:,} {noun}, {numbers} {more}{ranges}"
        else:
            said = "nothing"
        if self._unknown:
            said += f"; it is not known whether {self._unknown:,} more were accepted"
        return said

    @contextmanager
    def _interruption_told(self) -> Iterator[None]:
        """Whenever Ctrl-C comes, say what was accepted."""
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; accepted: {self._so_far()}") from None

    @contextmanager
    def _failure_told(self) -> Iterator[None]:
        """Whatever goes wrong in the middle, say what was accepted before."""
        try:
            yield
        except BrokenPipeError:
            message = f"standard output was closed; accepted before: {self._so_far()}"
            raise Failed(message) from None
        except InstaChatError as error:
            error.message += f"; accepted before: {self._so_far()}"
            if self._ranges and isinstance(error, Invalid):
                note_unstored(self._core, self._token)
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C inside takes effect at the end; a second one at once."""
    pressed = 0

    def hold(*_: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as with nohup
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
