"""The time from accepted to searchable, under half the load that this machine stores and publishes.

The rate is measured with all processes running, because Elasticsearch shares the processors with them: half
of what it takes alone may be more than the whole pipeline can do.

An index refreshes once a second, so no index can show a message sooner than half of that on average. Searches
also read from PostgreSQL what the index does not show yet: a message is searchable as soon as it is stored.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from statistics import quantiles

from backend.domain.errors import Failed
from backend.domain.folding import fold
from backend.ingest.requests import AcceptRequest
from backend.search.searcher import IndexSearcher
from backend.storage.elasticsearch.mapping import INDEX_SETTINGS
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import BATCH_SIZE, Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side
from instachat_cli.bench.harness.servers import worker

P50 = Goal(must=0.1, at_most=True)
P99 = Goal(must=0.5, at_most=True)
KEYWORD_LENGTH = 20  # code points of the message that is searched for
INTERVAL_SECONDS = 0.1  # between two requests; the last message of each is searched for
POLL_SECONDS = 0.01
WARM_SECONDS = 3.0  # at the begin of the load, not measured
TIMEOUT_SECONDS = 60.0
REFRESH_MS = 1000.0
WARM_UP_FACTOR = 1.1  # a node that is still getting faster by this factor is not warm yet


def measure(env: Environment) -> Iterator[Row]:
    """Run a worker under load, and search for each request's last message until it is found."""
    assert INDEX_SETTINGS["refresh_interval"] == "1s"
    elastic = SearchEnvironment(env)
    elastic.reset_index()
    repetitions = -(-env.scale.reindexed // len(env.texts))
    messages = repetitions * len(env.texts)  # enough for refreshes and merges to happen

    def accepted() -> None:
        elastic.reset_index()
        for _ in range(repetitions):
            env.accept_batches(env.texts)

    def store_and_publish() -> None:
        env.drain()
        elastic.publish_all()

    rate = _warm_up(Side("store and publish", store_and_publish, messages, before=accepted)) / 2
    elastic.reset_index()
    env.backend.publisher and env.backend.publisher.publish()
    with worker(env.backend):
        latencies = quantiles(_latencies(elastic, rate), n=100, method="inclusive")
    for at, what, goal in ((49, "p50", P50), (98, "p99", P99)):
        yield Row(
            f"accepted to searchable, {what}",
            f"{rate:,.0f} messages/s accepted, half of the rate at which {messages:,} are stored and"
            f" published; {env.scale.steady_seconds:g} s, {1 / INTERVAL_SECONDS:.0f} requests a second; one"
            " worker",
            "accepted to searchable",
            "the refresh interval",
            "ms",
            [(latencies[at] * 1000, REFRESH_MS)],
            goal,
        )


def _warm_up(ceiling: Side) -> float:
    """Measure until the node is warm; returns messages a second. Warming up about triples the rate."""
    rate = 0.0
    while (current := ceiling.measure()) > rate * WARM_UP_FACTOR:
        rate = current
    return current


def _latencies(elastic: SearchEnvironment, rate: float) -> list[float]:
    """Seconds from the answer to each request until its last message is searchable."""
    env = elastic.env
    searcher = IndexSearcher(env.backend.database, elastic.index)
    sent: deque[tuple[int, str, float]] = deque()  # number, keyword, time of the answer
    done = threading.Event()
    size = max(int(rate * INTERVAL_SECONDS), 1)
    started = time.perf_counter()

    def send_load() -> None:
        requests_sent = 0
        while time.perf_counter() - started < WARM_SECONDS + env.scale.steady_seconds:
            last, texts = 0, [""]
            for start in range(0, size, BATCH_SIZE):
                texts = [
                    env.texts[n % len(env.texts)]
                    for n in range(start, min(start + BATCH_SIZE, size))
                ]
                request = AcceptRequest.messages(env.chat.token, env.chat.number, texts)
                last = env.backend.acceptor.accept(request).last
            sent.append((last, fold(texts[-1])[:KEYWORD_LENGTH], time.perf_counter()))
            requests_sent += 1
            time.sleep(max(0.0, started + requests_sent * INTERVAL_SECONDS - time.perf_counter()))
        done.set()

    def is_found(number: int, keyword: str) -> bool:
        page = searcher.search(env.chat.id, keyword, number - 1, 1)
        return any(message.number == number for message in page.messages)

    sender = threading.Thread(target=send_load)
    sender.start()
    latencies: list[float] = []
    try:
        while sent or not done.is_set():
            if sent and is_found(*sent[0][:2]):
                _, _, at = sent.popleft()
                now = time.perf_counter()
                if at - started > WARM_SECONDS:
                    latencies.append(now - at)
                continue
            if sent and time.perf_counter() - sent[0][2] > TIMEOUT_SECONDS:
                raise Failed(
                    f"a message was not searchable {TIMEOUT_SECONDS:.0f} s after it was accepted"
                )
            time.sleep(POLL_SECONDS)
    finally:
        sender.join()
    return latencies
