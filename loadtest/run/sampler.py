"""Sampling how long a message takes from its answer to being stored, and to being searchable.

A few messages a second, from a process that makes no load, in the chats that the load is in: so neither the
samples are slowed by a busy generator, nor the load by polling. Each is asked for one by one, which the
server answers as soon as it is stored, and then searched for by its mark until it is found.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

from loadtest.corpus.fixtures import Ground
from loadtest.corpus.texts import digest, mark
from loadtest.recording import Recorder, What, keep
from loadtest.report.result import Lags, Spread, Window
from loadtest.run.histogram import Histogram
from loadtest.run.plan import Plan
from loadtest.web import Web, messages

EVERY_SECONDS = 0.2
AT_ONCE = 16
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.2


class Sample(NamedTuple):
    """When its answer came, and how long it took from there; None: not within the sampler's patience."""

    at_s: float
    stored_ms: float | None
    searchable_ms: float | None


class Sampler:
    """Takes samples from a thread of its own until it is stopped."""

    def __init__(
        self,
        web: Web,
        ground: Ground,
        plan: Plan,
        folder: Path,
        begin: float,
        patience: float,
    ) -> None:
        self._web, self._ground, self._plan, self._folder = web, ground, plan, folder
        self._patience = patience
        self._begin = begin  # of the run, by time.monotonic()
        self._recorder = Recorder()
        self._stop, self._given_up = threading.Event(), threading.Event()
        self._free = threading.Semaphore(AT_ONCE)
        self._chance = Random(f"{plan.seed}/sampler")
        self.samples: list[Sample] = []
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more; what is under way is finished, and all of it is in the ledger."""
        self._stop.set()
        self._thread.join()
        keep(self._folder, "sampler", self._recorder.take())

    def give_up(self) -> None:
        """Stop, and do not wait for what is under way: nobody will ask for it."""
        self._given_up.set()
        self.stop()

    def lags(self, window: Window) -> Lags:
        """The percentiles within a window."""
        counted = [s for s in self.samples if window.from_s <= s.at_s < window.to_s]
        return Lags(
            _spread([s.stored_ms for s in counted]), _spread([s.searchable_ms for s in counted])
        )

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number in count():
                if self._stop.wait(EVERY_SECONDS):
                    break
                where = self._chance.choice(self._ground.chats)
                if self._free.acquire(blocking=False):  # else all wait: one more would tell nothing
                    pool.submit(self._sample, number, *where)

    def _sample(self, number: int, application: int, chat: int) -> None:
        try:
            self._send_and_wait(number, application, chat)
        finally:
            self._free.release()

    def _send_and_wait(self, number: int, application: int, chat: int) -> None:
        token = self._ground.tokens[application]
        sign = mark(self._plan.seed, "s", number)
        text = self._ground.tongue(application, chat).text(Random(sign), sign)
        answer = self._web.ask("POST", messages(token, chat), {"message": {"text": text}})
        answered = time.monotonic()
        if answer.status not in (201, 202):
            if answer.status == 0 or answer.status >= 500:
                self._recorder.fate(What.CREATION_UNKNOWN, application, chat, 0, digest(text))
            return
        given = answer.body["number"]
        self._recorder.fate(What.CREATED, application, chat, given, digest(text))
        stored = self._until(answered, lambda: self._is_stored(token, chat, given))
        found = self._until(answered, lambda: self._is_found(token, chat, sign)) if stored else None
        self.samples.append(Sample(answered - self._begin, stored, found))

    def _until(self, since: float, true: Callable[[], bool | None]) -> float | None:
        """Milliseconds from `since` until that is so; None if it can't be, or takes too long."""
        pause = FIRST_PAUSE
        while time.monotonic() - since < self._patience and (so := true()) is not None:
            if so:
                return (time.monotonic() - since) * 1000
            if self._given_up.wait(pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        return None

    def _is_stored(self, token: str, chat: int, number: int) -> bool | None:
        status = self._web.ask("GET", messages(token, chat, number)).status
        return None if status == 404 else status == 200  # what is only accepted yet is never 404

    def _is_found(self, token: str, chat: int, sign: str) -> bool:
        answer = self._web.ask("GET", messages(token, chat, keyword=sign, limit=1))
        return answer.status == 200 and bool(answer.body["items"])


def _spread(found: Iterable[float | None]) -> Spread:
    times, missed = Histogram(), 0
    for ms in found:
        if ms is None:
            missed += 1
        else:
            times.add(int(ms * 1000))
    p50, p95, p99 = times.percentiles_ms(0.5, 0.95, 0.99)
    return Spread(times.count, p50, p95, p99, times.max_ms, missed)
