"""How the stages grow with the messages that there are in all, and with the chats.

Everything is sent, stored and published as in real life, size by size on one ground; each stage is timed
alone, in one process. A rate is that of the way from the size before to this one; a time is of one call once
this size is reached. Messages: all in a hundred chats, a tenth of them in the first. Chats: with the same ten
thousand messages spread over them at each size.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from statistics import median
from time import perf_counter

from backend.domain.errors import InstaChatError
from backend.domain.folding import fold
from backend.domain.model import MAX_BATCH
from backend.ingest.requests import AcceptRequest
from backend.search.searcher import IndexSearcher, ScanSearcher, Searcher
from backend.settings import Settings
from backend.storage.postgres import search_indices
from instachat_cli.bench.cases.publish import publish_all
from instachat_cli.bench.cases.reconcile import check_consistent
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import (
    BATCH_SIZE,
    REQUESTS_PER_CALL,
    Environment,
    Scale,
    open_environment,
)
from instachat_cli.bench.harness.facts import facts

BATCHES_PER_ROUND = 50  # are accepted before they are stored, and then published
SPREAD_MESSAGES = 10_000  # over the chats, at each size
CHATS = 100  # of the messages' axis; and so many have changed when the counters are synced
LARGE_CHAT = 1
REPEATS = 3  # of what takes milliseconds; the median counts
KEYWORDS = 30
KEYWORD_LENGTHS = (3, 5, 8)
PAGE = 50
SEED = 20_261_124


class Axis(StrEnum):
    """What there is more and more of."""

    MESSAGES = "messages"
    CHATS = "chats"


class GrowthStage(StrEnum):
    """What is measured."""

    ACCEPT = "accept"
    STORE = "store"
    PUBLISH = "publish"
    SEARCH = "search"
    SCAN = "search by PostgreSQL"
    SYNC = "sync-counters"
    RECONCILE = "reconcile"

    @property
    def is_rate(self) -> bool:
        """Whether more is better: messages a second; otherwise milliseconds."""
        return self in (GrowthStage.ACCEPT, GrowthStage.STORE, GrowthStage.PUBLISH)

    @property
    def unit(self) -> str:
        """Of its values."""
        return "messages/s" if self.is_rate else "ms"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of each, rising."""

    messages: Sequence[int] = (10_000, 100_000, 1_000_000)
    chats: Sequence[int] = (100, 10_000, 100_000)


@dataclass(frozen=True, slots=True)
class Point:
    """One stage at one size."""

    axis: Axis
    size: int
    stage: GrowthStage
    value: float


OnPoint = Callable[[Point], object]


def measure(
    settings: Settings, sizes: Sizes, on_point: OnPoint
) -> tuple[list[Point], dict[str, str]]:
    """Grow along both axes, each on ground of its own; gives the points, and the facts of the machine.

    Raises Failed if a store lost, changed or added anything: each size ends with a reconciliation.
    """
    points: list[Point] = []
    machine_facts: dict[str, str] = {}
    for axis, grow in ((Axis.MESSAGES, _by_messages), (Axis.CHATS, _by_chats)):
        with open_environment(settings, Scale(messages=BATCH_SIZE)) as env:
            machine_facts = facts(env.backend)
            for size, stage, value in grow(_GrowingApplication(env), getattr(sizes, axis)):
                points.append(Point(axis, size, stage, value))
                on_point(points[-1])
    return points, machine_facts


Measurements = Iterator[tuple[int, GrowthStage, float]]
BatchSize = tuple[int, int]  # a request: to which chat, how many messages


def _by_messages(application: "_GrowingApplication", sizes: Sequence[int]) -> Measurements:
    application.add_chats(CHATS)
    there = 0
    for size in sizes:
        whole = [BATCH_SIZE] * ((size - there) // BATCH_SIZE)
        rest = (size - there) % BATCH_SIZE
        batches = [
            (LARGE_CHAT if n % 10 == 0 else n % CHATS + 1, count)
            for n, count in enumerate([*whole, rest] if rest else whole)
        ]
        for stage, rate in application.send(batches, BATCHES_PER_ROUND, concurrency=1):
            yield size, stage, rate
        for stage, took in application.measure_reads():
            yield size, stage, took
        there = size


def _by_chats(application: "_GrowingApplication", sizes: Sequence[int]) -> Measurements:
    for size in sizes:
        application.add_chats(size)
        batches = [(n * size // SPREAD_MESSAGES % size + 1, 1) for n in range(SPREAD_MESSAGES)]
        for stage, rate in application.send(
            batches, SPREAD_MESSAGES, concurrency=REQUESTS_PER_CALL
        ):
            yield size, stage, rate
        for stage, took in application.measure_reads():
            yield size, stage, took


class _GrowingApplication:
    """An application that becomes larger and larger."""

    def __init__(self, env: Environment) -> None:
        self._env, self._backend, self._token = env, env.backend, env.chat.token
        self._elastic = SearchEnvironment(env) if env.backend.index else None
        if self._elastic:
            self._elastic.reset_index()
        self._texts = cycle(env.texts)
        self._chats = 1
        self._seconds: dict[GrowthStage, float] = defaultdict(float)
        check_consistent(env)  # whoever does it first reads modules and plans, too

    def add_chats(self, wanted: int) -> None:
        """Have so many chats."""
        while (missing := wanted - self._chats) > 0:
            request = AcceptRequest.chats(self._token, min(MAX_BATCH, missing))
            self._backend.acceptor.accept(request)
            self._chats += min(MAX_BATCH, missing)
            self._env.drain()

    def send(
        self, batches: Sequence[BatchSize], round_size: int, concurrency: int
    ) -> Iterator[tuple[GrowthStage, float]]:
        """Send messages, so many requests in a call; gives the rate of each stage.

        So many batches round_size are accepted, then stored, then published.
        """
        self._seconds.clear()
        for start in range(0, len(batches), round_size):
            self._accept_store_publish(batches[start : start + round_size], concurrency)
        count = sum(count for _, count in batches)
        for stage, seconds in self._seconds.items():
            yield stage, count / seconds

    def measure_reads(self) -> Iterator[tuple[GrowthStage, float]]:
        """What is timed once all is there, in milliseconds."""
        database = self._backend.database
        if self._elastic:
            with database.connect() as connection:
                live = search_indices.live_index(connection)
            assert live, "the ground has made one"
            self._elastic.index.refresh(live.name)
            yield GrowthStage.SEARCH, self._search(IndexSearcher(database, self._elastic.index))
        yield GrowthStage.SCAN, self._search(ScanSearcher(database))
        yield GrowthStage.SYNC, median(self._sync() for _ in range(REPEATS))
        self._seconds.clear()
        with self._timer(GrowthStage.RECONCILE):
            check_consistent(self._env)
        yield GrowthStage.RECONCILE, self._seconds[GrowthStage.RECONCILE] * 1000

    def _accept_store_publish(self, batches: Sequence[BatchSize], concurrency: int) -> None:
        with self._timer(GrowthStage.ACCEPT):
            for start in range(0, len(batches), concurrency):
                requests = [
                    AcceptRequest.messages(self._token, chat, list(islice(self._texts, count)))
                    for chat, count in batches[start : start + concurrency]
                ]
                for answer in self._backend.acceptor.accept_batch(requests):
                    if isinstance(answer, InstaChatError):
                        raise answer
        with self._timer(GrowthStage.STORE):
            self._env.drain()
        if self._elastic:
            with self._timer(GrowthStage.PUBLISH):
                publish_all(self._elastic)

    def _sync(self) -> float:
        """With the same number of changed chats at every size."""
        for _ in self._backend.counter_sync.sync():
            pass
        changed = min(CHATS, self._chats)
        step = self._chats // changed
        self._accept_store_publish([(1 + n * step, 1) for n in range(changed)], REQUESTS_PER_CALL)
        since = perf_counter()
        for _ in self._backend.counter_sync.sync():
            pass
        return (perf_counter() - since) * 1000

    def _search(self, searcher: Searcher) -> float:
        """The first page of each keyword, in the large chat."""
        rng = random.Random(SEED)
        spoken = [folded for text in self._env.texts if len(folded := fold(text)) > 8]
        took = []
        for _ in range(KEYWORDS):
            line, length = rng.choice(spoken), rng.choice(KEYWORD_LENGTHS)
            at = rng.randrange(len(line) - length + 1)
            since = perf_counter()
            searcher.search(self._env.chat.id, line[at : at + length], 0, PAGE)
            took.append((perf_counter() - since) * 1000)
        return median(took)

    @contextmanager
    def _timer(self, stage: GrowthStage) -> Iterator[None]:
        since = perf_counter()
        yield
        self._seconds[stage] += perf_counter() - since
