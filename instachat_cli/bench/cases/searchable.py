"""From accepted to searchable, under a steady load of half of what this machine stores and publishes.

The node shares its processors with all else here: half of what it takes alone may be more than all there is.

An index shows what was written to it once a second, so no way of publishing can be quicker than half of that
in the middle, or than all of it at the worst. What comes on top is ours.
"""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles

from backend.domain.errors import Failed
from backend.ingest.requests import AcceptRequest
from backend.storage.elasticsearch.mapping import INDEX_SETTINGS
from backend.storage.postgres import search_indices
from instachat_cli.bench.cases.publish import publish_all
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import BATCH_SIZE, Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side

P50 = Goal(must=1.5, aim=0.75, at_most=True)
P99 = Goal(must=3.0, aim=1.5, at_most=True)
INTERVAL_SECONDS = 0.1  # between two requests, each of which is looked for
POLL_SECONDS = 0.01
WARM_SECONDS = 3.0  # that do not count
TIMEOUT_SECONDS = 60.0
REFRESH_MS = 1000.0
WARM_UP_FACTOR = 1.1  # a node that gets quicker by more than this is not warm yet


def measure(env: Environment) -> Iterator[Row]:
    """A worker stores and publishes; each request's last message is looked for until it is there."""
    assert INDEX_SETTINGS["refresh_interval"] == "1s"
    elastic = SearchEnvironment(env)
    elastic.reset_index()
    repetitions = -(-env.scale.reindexed // len(env.texts))
    messages = repetitions * len(env.texts)  # so many that the node refreshes and merges meanwhile

    def accepted() -> None:
        elastic.reset_index()
        for _ in range(repetitions):
            env.accept_batches(env.texts)

    def store_and_publish() -> None:
        env.drain()
        publish_all(elastic)

    rate = _warm_up(Side("store and publish", store_and_publish, messages, before=accepted)) / 2
    elastic.reset_index()
    env.backend.publisher and env.backend.publisher.publish()
    with _worker(env):
        latencies = quantiles(_latencies(elastic, rate), n=100, method="inclusive")
    for at, what, goal in ((49, "p50", P50), (98, "p99", P99)):
        yield Row(
            f"accepted to searchable, {what}",
            f"{rate:,.0f} messages/s accepted, half of what is stored and published of {messages:,} in a"
            " row;"
            f" {env.scale.steady_seconds:g} s, {1 / INTERVAL_SECONDS:.0f} requests a second; one worker",
            "accepted to searchable",
            "the refresh interval",
            "ms",
            [(latencies[at] * 1000, REFRESH_MS)],
            goal,
        )


def _warm_up(ceiling: Side) -> float:
    """Messages a second once the node has compiled what it runs, which triples them."""
    rate = 0.0
    while (current := ceiling.measure()) > rate * WARM_UP_FACTOR:
        rate = current
    return current


@contextmanager
def _worker(env: Environment) -> Iterator[None]:
    given = env.backend.settings.model_dump(exclude_unset=True)
    variables = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    variables |= {f"INSTACHAT_{name.upper()}": str(value) for name, value in given.items()}
    worker = subprocess.Popen(
        [sys.executable, "-m", "instachat_cli", "worker", "--until-input-ends"],
        env=variables,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not env.backend.log.count_workers():
            if time.monotonic() > deadline or worker.poll() is not None:
                raise Failed("the worker did not start")
            time.sleep(POLL_SECONDS)
        yield
    finally:
        worker.terminate()
        worker.wait()


def _latencies(elastic: SearchEnvironment, rate: float) -> list[float]:
    """Seconds from the answer with the last number of each request until a search could find it."""
    env = elastic.env
    with env.backend.database.connect() as connection:
        live = search_indices.live_index(connection)
    assert live is not None
    sent: deque[tuple[int, float]] = deque()
    done = threading.Event()
    size = max(int(rate * INTERVAL_SECONDS), 1)
    started = time.perf_counter()

    def send_load() -> None:
        requests_sent = 0
        while time.perf_counter() - started < WARM_SECONDS + env.scale.steady_seconds:
            last = 0
            for start in range(0, size, BATCH_SIZE):
                texts = [
                    env.texts[n % len(env.texts)]
                    for n in range(start, min(start + BATCH_SIZE, size))
                ]
                request = AcceptRequest.messages(env.chat.token, env.chat.number, texts)
                last = env.backend.acceptor.accept(request).last
            sent.append((last, time.perf_counter()))
            requests_sent += 1
            time.sleep(max(0.0, started + requests_sent * INTERVAL_SECONDS - time.perf_counter()))
        done.set()

    sender = threading.Thread(target=send_load)
    sender.start()
    latencies: list[float] = []
    try:
        while sent or not done.is_set():
            if sent and elastic.index.count_documents(
                live.name, env.chat.id, sent[0][0], sent[0][0]
            ):
                _, at = sent.popleft()
                now = time.perf_counter()
                if at - started > WARM_SECONDS:
                    latencies.append(now - at)
                continue
            if sent and time.perf_counter() - sent[0][1] > TIMEOUT_SECONDS:
                raise Failed(
                    f"a message was not searchable {TIMEOUT_SECONDS:.0f} s after it was accepted"
                )
            time.sleep(POLL_SECONDS)
    finally:
        sender.join()
    return latencies
