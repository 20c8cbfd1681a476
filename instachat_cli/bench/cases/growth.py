"""How the cost of each stage grows with the number of messages, and with the number of chats.

The data grows size by size in one environment, through accept, drain and publish. Each stage is timed
separately, in one process. A rate is measured from the previous size to this one; a time is that of one call
at this size. Along the axis of messages, all are in a hundred chats, a tenth of them in the first. Along the
axis of chats, each size adds ten thousand messages, spread over the chats.
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
from typing import NamedTuple

from backend.domain.errors import InstaChatError
from backend.domain.folding import fold
from backend.domain.model import MAX_BATCH
from backend.ingest.requests import AcceptRequest
from backend.search.searcher import IndexSearcher, ScanSearcher, Searcher
from backend.settings import Settings
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import (
    BATCH_SIZE,
    REQUESTS_PER_CALL,
    Environment,
    Scale,
    open_environment,
)
from instachat_cli.bench.harness.facts import collect_facts

BATCHES_PER_ROUND = 50  # that are accepted, then stored, then published
SPREAD_MESSAGES = 10_000  # added at each number of chats
CHATS = 100  # along the axis of messages; also the number of changed chats before a sync
LARGE_CHAT = 1
REPEATS = 3  # of a sync, of which the median counts
KEYWORDS = 30
KEYWORD_LENGTHS = (3, 5, 8)
PAGE = 50
SEED = 20_261_124


class Axis(StrEnum):
    """What grows."""

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
        """Whether the value is a rate in messages a second; otherwise it is a time in milliseconds."""
        return self in (GrowthStage.ACCEPT, GrowthStage.STORE, GrowthStage.PUBLISH)

    @property
    def unit(self) -> str:
        """The unit of its values."""
        return "messages/s" if self.is_rate else "ms"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes along each axis, in ascending order."""

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
    """Grow along both axes, each in an environment of its own; returns the points and the machine's facts.

    Each size ends with a reconciliation. Raises Failed if it finds a difference between the stores.
    """
    points: list[Point] = []
    facts: dict[str, str] = {}
    for grow, axis_sizes in ((_by_messages, sizes.messages), (_by_chats, sizes.chats)):
        with open_environment(settings, Scale(messages=BATCH_SIZE)) as env:
            facts = collect_facts(env.backend)
            for point in grow(_GrowingApplication(env), axis_sizes):
                points.append(point)
                on_point(point)
    return points, facts


class _Batch(NamedTuple):
    """A request: the chat that receives it, and its number of messages."""

    chat: int
    messages: int


def _by_messages(application: "_GrowingApplication", sizes: Sequence[int]) -> Iterator[Point]:
    application.add_chats(CHATS)
    sent = 0
    for size in sizes:
        counts = [BATCH_SIZE] * ((size - sent) // BATCH_SIZE)
        if rest := (size - sent) % BATCH_SIZE:
            counts.append(rest)
        batches = [
            _Batch(LARGE_CHAT if n % 10 == 0 else n % CHATS + 1, count)
            for n, count in enumerate(counts)
        ]
        for stage, value in application.grow(batches, BATCHES_PER_ROUND, concurrency=1):
            yield Point(Axis.MESSAGES, size, stage, value)
        sent = size


def _by_chats(application: "_GrowingApplication", sizes: Sequence[int]) -> Iterator[Point]:
    for size in sizes:
        application.add_chats(size)
        batches = [
            _Batch(n * size // SPREAD_MESSAGES % size + 1, 1) for n in range(SPREAD_MESSAGES)
        ]
        for stage, value in application.grow(batches, SPREAD_MESSAGES, REQUESTS_PER_CALL):
            yield Point(Axis.CHATS, size, stage, value)


class _GrowingApplication:
    """The application whose messages and chats grow."""

    def __init__(self, env: Environment) -> None:
        self._env, self._backend, self._token = env, env.backend, env.chat.token
        self._elastic = SearchEnvironment(env) if env.backend.index else None
        if self._elastic:
            self._elastic.reset_index()
        self._texts = cycle(env.texts)
        self._chats = 1
        self._seconds: dict[GrowthStage, float] = defaultdict(float)
        env.check_consistent()  # the first one is slower: it imports modules and plans queries

    def add_chats(self, wanted: int) -> None:
        """Create chats until there are `wanted`."""
        while (missing := wanted - self._chats) > 0:
            request = AcceptRequest.chats(self._token, min(MAX_BATCH, missing))
            self._backend.acceptor.accept(request)
            self._chats += min(MAX_BATCH, missing)
            self._env.drain()

    def grow(
        self, batches: Sequence[_Batch], round_size: int, concurrency: int
    ) -> Iterator[tuple[GrowthStage, float]]:
        """Send batches, then measure reads; yields the value of each stage.

        In each round, `round_size` batches are accepted, `concurrency` in one call, then stored, then
        published.
        """
        yield from self._send(batches, round_size, concurrency)
        yield from self._measure_reads()

    def _send(
        self, batches: Sequence[_Batch], round_size: int, concurrency: int
    ) -> Iterator[tuple[GrowthStage, float]]:
        """The rate of each stage."""
        self._seconds.clear()
        for start in range(0, len(batches), round_size):
            self._accept_store_publish(batches[start : start + round_size], concurrency)
        count = sum(count for _, count in batches)
        for stage, seconds in self._seconds.items():
            yield stage, count / seconds

    def _measure_reads(self) -> Iterator[tuple[GrowthStage, float]]:
        """The time of each operation at the size that is reached, in milliseconds."""
        database = self._backend.database
        if self._elastic:
            self._elastic.index.refresh(self._elastic.live_name)
            yield GrowthStage.SEARCH, self._search(IndexSearcher(database, self._elastic.index))
        yield GrowthStage.SCAN, self._search(ScanSearcher(database))
        yield GrowthStage.SYNC, median(self._sync() for _ in range(REPEATS))
        self._seconds.clear()
        with self._timer(GrowthStage.RECONCILE):
            self._env.check_consistent()
        yield GrowthStage.RECONCILE, self._seconds[GrowthStage.RECONCILE] * 1000

    def _accept_store_publish(self, batches: Sequence[_Batch], concurrency: int) -> None:
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
                self._elastic.publish_all()

    def _sync(self) -> float:
        """The time of a sync, with the same number of changed chats at every size."""
        for _ in self._backend.counter_sync.sync():
            pass
        changed = min(CHATS, self._chats)
        step = self._chats // changed
        batches = [_Batch(1 + n * step, 1) for n in range(changed)]
        self._accept_store_publish(batches, REQUESTS_PER_CALL)
        since = perf_counter()
        for _ in self._backend.counter_sync.sync():
            pass
        return (perf_counter() - since) * 1000

    def _search(self, searcher: Searcher) -> float:
        """The median time of the first page of a search in the large chat."""
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
