"""A load: processes with many writers each, and real workers, during which tests damage the engines.

Each writer keeps a ledger (`tests.support.ledger`), and records when each of its requests began and ended. It
writes until it is told to stop: it retries what an engine refuses temporarily, and records a request without
an answer as uncertain; any other error ends the writer and fails the test.

python -m tests.support.faults.load DATABASE REDIS FOLDER NAME WRITERS BATCH BYTES TOKEN…
"""

import heapq
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import NotFound, Unavailable, Unconfirmed
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings, as_environment
from tests.support.faults.pace import pause
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.ledger import Audit, Ledger, audit
from tests.support.program_logs import MARKER
from tests.support.waiting import PATIENCE_SECONDS, wait_until

CHATS = 4  # of each application, at the start
NEW_CHAT_SHARE = 0.02  # of all requests


class Span(NamedTuple):
    """One request that was answered: its parent, its numbers, its beginning and its end."""

    parent: str
    first: int
    last: int
    begin: int
    end: int


class Writer:
    """One writer: sends numbered messages to random chats, in order, until told to stop."""

    def __init__(self, backend: Backend, folder: Path, name: str, tokens: list[str]) -> None:
        self._backend = backend
        self._folder = folder
        self._name = name
        self._dice = random.Random(name)
        self._chats = [(token, chat) for token in tokens for chat in range(1, CHATS + 1)]
        self._spans: list[Span] = []
        self._refusals: Counter[str] = Counter()

    def write(self, batch: int, size: int) -> None:
        """Write, then save what happened."""
        book = Ledger(self._folder / f"ledger-{self._name}")
        sent = 0
        while not (self._folder / "stop").exists():
            pause()
            token, chat = self._dice.choice(self._chats)
            if self._dice.random() < NEW_CHAT_SHARE:
                self._create(token)
                continue
            texts = [
                f"{MARKER} {self._name} {sent + n} سلام".ljust(size)
                for n in range(self._dice.randint(1, batch))
            ]
            try:
                span = self._accept(f"{token} {chat}", AcceptRequest.messages(token, chat, texts))
            except (
                NotFound
            ):  # a new chat may be lost together with the Redis that issued its number
                self._refusals["NotFound"] += 1
                self._chats.remove((token, chat))
                continue
            except Unconfirmed:
                book.record_uncertain(token, chat, texts)
            except Unavailable:
                continue
            else:
                book.record_answer(token, chat, span.first, texts, span.begin, span.end)
            sent += len(texts)
        left = {"spans": self._spans, "refusals": self._refusals}
        (self._folder / f"left-{self._name}").write_text(json.dumps(left))

    def _create(self, token: str) -> None:
        try:
            self._chats.append((token, self._accept(token, AcceptRequest.chats(token)).first))
        except Unavailable:
            return

    def _accept(self, parent: str, request: AcceptRequest) -> Span:
        begin = time.monotonic_ns()
        try:
            accepted = self._backend.acceptor.accept(request)
        except Unavailable as error:
            self._refusals[type(error).__name__] += 1
            time.sleep(0.02)
            raise
        span = Span(parent, accepted.first, accepted.last, begin, time.monotonic_ns())
        self._spans.append(span)
        return span


def main(
    database: str,
    redis: str,
    folder: str,
    name: str,
    writers: str,
    batch: str,
    size: str,
    *tokens: str,
) -> None:
    """Run this many writers until the file `stop` exists."""
    with (
        open_backend(Settings(database_url=database, redis_url=redis)) as backend,
        ThreadPoolExecutor(int(writers)) as pool,
    ):
        running = [
            pool.submit(
                Writer(backend, Path(folder), f"{name}.{n}", list(tokens)).write,
                int(batch),
                int(size),
            )
            for n in range(int(writers))
        ]
        for writer in running:
            writer.result()


class Load:
    """The load as the test sees it."""

    def __init__(self, settings: Settings, folder: Path, applications: int = 1) -> None:
        self.settings = settings
        self.folder = folder
        self.tokens: list[str] = []
        self._writers: list[ForkedProcess] = []
        self._workers: list[ForkedProcess] = []
        with open_backend(settings) as backend:
            for n in range(applications):
                self.tokens.append(backend.catalog.applications.create(f"{n}").token)
                backend.acceptor.accept(AcceptRequest.chats(self.tokens[-1], CHATS))

    def write(self, *, processes: int, writers: int, batch: int = 4, size: int = 0) -> None:
        """Start writers, and wait until each of them has an answer."""
        urls = [self.settings.database_url, self.settings.redis_url]
        for _ in range(processes):
            arguments = [*urls, self.folder, len(self._writers), writers, batch, size, *self.tokens]
            self._writers.append(self._start("tests.support.faults.load", *arguments))
        wait_until(lambda: len(self.ledgers) == processes * writers)
        wait_until(lambda: all(ledger.stat().st_size for ledger in self.ledgers))

    def work(self) -> None:
        """Start a worker."""
        self._workers.append(self._start("instachat_cli", "worker"))

    def kill_worker(self) -> None:
        """Kill the worker that was started last."""
        worker = self._workers.pop()
        worker.kill()
        worker.wait()

    def _start(self, module: str, *arguments: object) -> ForkedProcess:
        environment = os.environ | as_environment(self.settings)
        with (self.folder / f"{module}.log").open("ab") as log:
            return start_module(module, *arguments, environment=environment, stderr=log)

    @property
    def ledgers(self) -> list[Path]:
        """The files of the writers' ledgers."""
        return list(self.folder.glob("ledger-*"))

    @property
    def answered(self) -> int:
        """The number of requests so far that have an answer or an unknown result."""
        return sum(ledger.read_bytes().count(b"\n") for ledger in self.ledgers)

    def wait_for_answers(self, answers: int) -> None:
        """Wait for this many more answers, which show that the load is running."""
        until = self.answered + answers
        wait_until(lambda: self.answered >= until)

    def wait_for_every_writer(self) -> None:
        """Wait until each writer has another answer."""
        sizes = {ledger: ledger.stat().st_size for ledger in self.ledgers}
        wait_until(lambda: all(ledger.stat().st_size > size for ledger, size in sizes.items()))

    def wait_for_every_application(self) -> None:
        """Wait until each application has another answer, so that no shard that is used refuses."""
        before = self._answers_by_application()

        def answered() -> bool:
            now = self._answers_by_application()
            return all(now[token] > before[token] for token in self.tokens)

        wait_until(answered)

    def _answers_by_application(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for ledger in self.ledgers:
            # The last line may not be complete.
            for line in ledger.read_text("utf-8").rpartition("\n")[0].splitlines():
                entry = json.loads(line)
                found[entry["token"]] += entry["first"] is not None
        return found

    def finish(self) -> Audit:
        """End the load in order, drain the rest, and compare what is stored with the ledgers."""
        with self.ended() as backend:
            return self.compare(backend)

    def compare(self, backend: Backend) -> Audit:
        """Compare what is stored with the ledgers; only after the end."""
        assert not self.refusals["NotFound"], "what was given was not there"
        return audit(backend, self.ledgers)

    @contextmanager
    def ended(self) -> Iterator[Backend]:
        """End the load in order and drain the rest; then the block runs."""
        (self.folder / "stop").touch()
        for writer in self._writers:
            assert writer.wait(PATIENCE_SECONDS) == 0, self._log_text("tests.support.faults.load")
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers:
            assert worker.wait(PATIENCE_SECONDS) == 0, self._log_text("instachat_cli")
        said = self._log_text("instachat_cli")
        assert "the sweep failed" not in said, said
        assert "Unhandled exception in task" not in said, said
        with open_backend(self.settings) as backend:
            drain_completely(backend)
            yield backend

    def _log_text(self, module: str) -> str:
        log = self.folder / f"{module}.log"
        return log.read_text() if log.exists() else ""

    @property
    def spans(self) -> list[Span]:
        """Every request that was answered; only after the end."""
        left = [json.loads(path.read_text()) for path in self.folder.glob("left-*")]
        return [Span(*span) for writer in left for span in writer["spans"]]

    @property
    def refusals(self) -> Counter[str]:
        """The number of refused requests by the error's name; only after the end."""
        left = [json.loads(path.read_text()) for path in self.folder.glob("left-*")]
        return sum((Counter(writer["refusals"]) for writer in left), Counter())

    @property
    def longest_wait_seconds(self) -> float:
        """The longest time between two answers of one application; only after the end."""
        ends: dict[str, list[int]] = {}
        for span in self.spans:
            ends.setdefault(span.parent.partition(" ")[0], []).append(span.end)
        waits = (
            after - before for times in ends.values() for before, after in pairwise(sorted(times))
        )
        return max(waits, default=0) / 1e9

    def end(self) -> None:
        """Kill the processes that still run."""
        for process in (*self._workers, *self._writers):
            process.kill()
            process.wait()


@contextmanager
def under_load(settings: Settings, folder: Path, applications: int = 1) -> Iterator[Load]:
    """A load whose processes are killed at the end."""
    load = Load(settings, folder, applications)
    try:
        yield load
    finally:
        load.end()


def drain_completely(backend: Backend) -> None:
    """Drain until every log is empty, even if killed processes still hold locks."""

    def drained() -> bool:
        try:
            backend.drainer.drain_all()
        except Unavailable:
            return False
        return not backend.log.waiting(backend.database.refresh_installation().all_shards)

    wait_until(drained)


def out_of_order(spans: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Pairs of requests of which the first ended before the second began, but has higher numbers."""
    found = []
    by_parent: dict[str, list[Span]] = {}
    for span in spans:
        by_parent.setdefault(span.parent, []).append(span)
    for mine in by_parent.values():
        under_way: list[tuple[int, Span]] = []  # ordered by their end
        highest: Span | None = None  # the highest one of the requests that have ended
        for span in sorted(mine, key=lambda s: s.begin):
            while under_way and under_way[0][0] < span.begin:
                ended = heapq.heappop(under_way)[1]
                if highest is None or ended.last > highest.last:
                    highest = ended
            if highest is not None and span.first <= highest.last:
                found.append((highest, span))
            heapq.heappush(under_way, (span.end, span))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
