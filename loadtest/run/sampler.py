"""Samples how long a message takes from its answer until it is stored, and until it is searchable.

The sampler sends a few messages a second to the chats under load. It runs in a process that makes no load, so
a busy generator does not delay the samples, and polling does not delay the load. It requests each message by
its number until the server returns it as stored, then searches for the message's mark until it is found. Then
it reads the newest message of the chat, for the audit: that is this one, or a later one, also if the request
has the ETag of an earlier answer.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import digest, mark
from loadtest.recording import RecordedOutcome, RecordedPage, Recorder, append_records
from loadtest.report.result import Lags, Spread, Window
from loadtest.run.histogram import Histogram
from loadtest.run.plan import Plan
from loadtest.web import ApiClient, messages_path

INTERVAL_SECONDS = 0.2
MAX_CONCURRENT_SAMPLES = 16
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
            _spread([s.stored_ms for s in counted]), _spread([s.searchable_ms for s in counted])
        )

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
        token = self._fixtures.tokens[application]
        marker = mark(self._plan.seed, "s", number)
        text = self._fixtures.language(application, chat).text(Random(marker), marker)
        answer = self._client.request(
            "POST", messages_path(token, chat), {"message": {"text": text}}
        )
        answered = time.monotonic()
        if answer.status not in (201, 202):
            if answer.status == 0 or answer.status >= 500:
                self._recorder.record_outcome(
                    RecordedOutcome.CREATION_UNKNOWN, application, chat, 0, digest(text)
                )
            return
        number_given = answer.body["number"]
        self._recorder.record_outcome(
            RecordedOutcome.CREATED, application, chat, number_given, digest(text)
        )
        stored = self._wait_until(answered, lambda: self._is_stored(token, chat, number_given))
        found = (
            self._wait_until(answered, lambda: self._is_found(token, chat, marker))
            if stored
            else None
        )
        self.samples.append(Sample(answered - self._begin, stored, found))
        if found:
            self._read_newest(application, chat, number_given)

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
        path = messages_path(self._fixtures.tokens[application], chat, None, order="desc", limit=1)
        tag, page = self._newest.get((application, chat), (None, None))
        answer = self._client.request("GET", path, unless=tag)
        if answer.status == 304 and page:
            self._recorder.record_page(page._replace(known=stored, not_modified=True))
        elif answer.status == 200:
            numbers = [item["number"] for item in answer.body["items"]]
            page = RecordedPage.of(application, chat, numbers, limit=1, known=stored)
            self._recorder.record_page(page)
            self._newest[application, chat] = answer.tag, page

    def _is_stored(self, token: str, chat: int, number: int) -> bool | None:
        status = self._client.request("GET", messages_path(token, chat, number)).status
        return None if status == 404 else status == 200  # an accepted message is never 404

    def _is_found(self, token: str, chat: int, marker: str) -> bool:
        answer = self._client.request("GET", messages_path(token, chat, keyword=marker, limit=1))
        return answer.status == 200 and bool(answer.body["items"])


def _spread(found: Iterable[float | None]) -> Spread:
    times, missed = Histogram(), 0
    for ms in found:
        if ms is None:
            missed += 1
        else:
            times.add(int(ms * 1000))
    return times.spread(missed)
