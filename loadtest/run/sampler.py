"""Samples how long a message takes from its answer until it is stored, and until it is searchable.

The sampler sends a few messages a second to the chats under load. It runs in a process that makes no load, so
a busy generator does not delay the samples, and polling does not delay the load. It requests each message by
its number until the server returns it as stored, then searches for the message's mark until it is found. Then
it reads the newest message of the chat, for the audit: that is this one, or a later one, also if the request
has the ETag of an earlier answer.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

from loadtest.adapter.answers import NO_ANSWER, ApiAnswer
from loadtest.adapter.operations import Operation
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import Marks, digest
from loadtest.errors import UnexpectedAnswer
from loadtest.recording import RecordedOutcome, RecordedPage, Recorder, append_records
from loadtest.report.result import Lags, Spread, Window
from loadtest.run.histogram import Histogram
from loadtest.run.plan import Plan
from loadtest.web import NOT_FOUND, ApiClient

INTERVAL_SECONDS = 0.2
MAX_CONCURRENT_SAMPLES = 16
NOT_MODIFIED = 304
MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.005, 0.2


class Sample(NamedTuple):
    """When the answer came, and the times from then on; None: not within the sampler's patience."""

    at_s: float
    stored_ms: float | None
    searchable_ms: float | None


class Sampler:
    """Takes samples in a thread until it is stopped."""

    def __init__(
        self,
        client: ApiClient,
        fixtures: Fixtures,
        plan: Plan,
        folder: Path,
        begin: float,
        patience: float,
    ) -> None:
        self._client, self._fixtures, self._plan, self._folder = client, fixtures, plan, folder
        self._patience = patience
        self._begin = begin  # of the run, by time.monotonic()
        self._recorder = Recorder()
        self._stop, self._aborted = threading.Event(), threading.Event()
        self._slots = threading.Semaphore(MAX_CONCURRENT_SAMPLES)
        self._rng = Random(f"{plan.seed}/sampler")
        self._marks = Marks(plan.seed, client.adapter.finds_words)
        self._newest: dict[tuple[int, int], tuple[str | None, RecordedPage]] = {}
        """The newest message of each chat, as it was last read, with its ETag."""
        self.samples: list[Sample] = []
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more; finish the samples under way and write them to the ledger."""
        self._stop.set()
        self._thread.join()
        append_records(self._folder, "sampler", self._recorder.take())

    def abort(self) -> None:
        """Stop without waiting for the samples under way to be stored and found."""
        self._aborted.set()
        self.stop()

    def lags(self, window: Window) -> Lags:
        """The percentiles of the samples within a window."""
        counted = [s for s in self.samples if window.from_s <= s.at_s < window.to_s]
        return Lags(
            _spread([s.stored_ms for s in counted if self._can(Operation.READ)]),
            _spread([s.searchable_ms for s in counted if self._can(Operation.SEARCH)]),
        )

    def _can(self, operation: Operation) -> bool:
        return operation in self._client.adapter

    def _run(self) -> None:
        with ThreadPoolExecutor(MAX_CONCURRENT_SAMPLES) as pool:
            for number in count():
                if self._stop.wait(INTERVAL_SECONDS):
                    break
                place = self._rng.choice(self._fixtures.chats)
                # If all slots are waiting, one more sample would show nothing new.
                if self._slots.acquire(blocking=False):
                    pool.submit(self._sample, number, *place)

    def _sample(self, number: int, application: int, chat: int) -> None:
        try:
            self._send_and_wait(number, application, chat)
        finally:
            self._slots.release()

    def _send_and_wait(self, number: int, application: int, chat: int) -> None:
        place = {"token": self._fixtures.tokens[application], "chat": chat}
        text = self._fixtures.language(application, chat).text(
            Random(self._marks.keyword_of("s", number)), self._marks.mark("s", number)
        )
        answer = self._client.request(Operation.SEND, {**place, "text": text})
        answered = time.monotonic()
        given = self._number(answer)
        if given is None:
            if answer.status == NO_ANSWER or answer.status >= 500 or answer.status < 300:
                self._recorder.record_outcome(
                    RecordedOutcome.CREATION_UNKNOWN, application, chat, 0, digest(text)
                )
            return
        self._recorder.record_outcome(
            RecordedOutcome.CREATED, application, chat, given, digest(text)
        )
        stored = found = None
        if self._can(Operation.READ):
            stored = self._wait_until(answered, lambda: self._is_stored(place, given))
        if self._can(Operation.SEARCH) and (stored or not self._can(Operation.READ)):
            keyword = self._marks.keyword_of("s", number)
            found = self._wait_until(answered, lambda: self._is_found(place, keyword))
        self.samples.append(Sample(answered - self._begin, stored, found))
        if found and self._can(Operation.LIST_NEWEST):
            self._read_newest(application, chat, given)

    def _number(self, answer: ApiAnswer) -> int | None:
        """The number that a creation was answered with; None if it was not done."""
        endpoint = self._client.adapter.endpoint(Operation.SEND)
        with suppress(UnexpectedAnswer):
            return endpoint.number(answer) if answer.status in endpoint.status else None
        return None

    def _wait_until(self, since: float, condition: Callable[[], bool | None]) -> float | None:
        """Milliseconds from `since` until the condition holds.

        None if the condition returns None, which means never, or does not hold within the patience. The
        pauses between two checks grow, and `abort` ends them.
        """
        pause = MIN_POLL_SECONDS
        while time.monotonic() - since < self._patience and (result := condition()) is not None:
            if result:
                return (time.monotonic() - since) * 1000
            if self._aborted.wait(pause):
                break
            pause = min(2 * pause, MAX_POLL_SECONDS)
        return None

    def _read_newest(self, application: int, chat: int, stored: int) -> None:
        """Read and record the newest message of a chat in which a number is stored."""
        endpoint = self._client.adapter.endpoint(Operation.LIST_NEWEST)
        tag, page = self._newest.get((application, chat), (None, None))
        answer = self._client.request(
            Operation.LIST_NEWEST,
            {"token": self._fixtures.tokens[application], "chat": chat, "limit": 1},
            unless=tag if self._client.adapter.has_etags else None,
        )
        if answer.status == NOT_MODIFIED and page:
            self._recorder.record_page(page._replace(known=stored, not_modified=True))
        elif answer.status in endpoint.status:
            numbers = [item.number for item in endpoint.items(answer)]
            page = RecordedPage.of(application, chat, numbers, limit=1, known=stored)
            self._recorder.record_page(page)
            self._newest[application, chat] = answer.tag, page

    def _is_stored(self, place: Mapping[str, object], number: int) -> bool | None:
        adapter = self._client.adapter
        status = self._client.request(Operation.READ, {**place, "number": number}).status
        if status == NOT_FOUND and status not in adapter.pending:
            return None
        return status in adapter.endpoint(Operation.READ).status

    def _is_found(self, place: Mapping[str, object], keyword: str) -> bool:
        first = {"keyword": keyword, "limit": 1, "after": 0, "page": 1, "offset": 0}
        answer = self._client.request(Operation.SEARCH, {**place, **first})
        endpoint = self._client.adapter.endpoint(Operation.SEARCH)
        return answer.status in endpoint.status and bool(endpoint.items(answer))


def _spread(found: Iterable[float | None]) -> Spread:
    times, missed = Histogram(), 0
    for ms in found:
        if ms is None:
            missed += 1
        else:
            times.add(int(ms * 1000))
    return times.spread(missed)
