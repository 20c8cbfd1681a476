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
from backend.ingest import accept
from backend.storage.elasticsearch.index import SETTINGS
from backend.storage.postgres import search_indices
from instachat_cli.bench.cases.publish import publish
from instachat_cli.bench.harness.elasticsearch import Elastic
from instachat_cli.bench.harness.environment import BULK, Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Side

MEDIAN = Goal(must=1.5, aim=0.75, at_most=True)
WORST = Goal(must=3.0, aim=1.5, at_most=True)
TURN_SECONDS = 0.1  # between two requests, each of which is looked for
POLL_SECONDS = 0.01
WARM_SECONDS = 3.0  # that do not count
PATIENCE = 60.0
REFRESH_MS = 1000.0
WARMER = 1.1  # a node that gets quicker by more than this is not warm yet


def measure(ground: Ground) -> Iterator[Row]:
    """A worker stores and publishes; each request's last message is looked for until it is there."""
    assert SETTINGS["refresh_interval"] == "1s"
    elastic = Elastic(ground)
    elastic.renew()
    turns = -(-ground.scale.reindexed // len(ground.texts))
    messages = turns * len(ground.texts)  # so many that the node refreshes and merges meanwhile

    def accepted() -> None:
        elastic.renew()
        for _ in range(turns):
            ground.accept_bulk(ground.texts)

    def store_and_publish() -> None:
        ground.drain()
        publish(elastic)

    rate = _warm(Side("store and publish", store_and_publish, messages, before=accepted)) / 2
    elastic.renew()
    ground.backend.publisher and ground.backend.publisher.publish()
    with _worker(ground):
        took = quantiles(_latencies(elastic, rate), n=100, method="inclusive")
    for at, what, goal in ((49, "p50", MEDIAN), (98, "p99", WORST)):
        yield Row(
            f"accepted to searchable, {what}",
            f"{rate:,.0f} messages/s accepted, half of what is stored and published of {messages:,} in a"
            " row;"
            f" {ground.scale.steady_seconds:g} s, {1 / TURN_SECONDS:.0f} requests a second; one worker",
            "accepted to searchable",
            "the refresh interval",
            "ms",
            [(took[at] * 1000, REFRESH_MS)],
            goal,
        )


def _warm(ceiling: Side) -> float:
    """Messages a second once the node has compiled what it runs, which triples them."""
    rate = 0.0
    while (again := ceiling.measure()) > rate * WARMER:
        rate = again
    return again


@contextmanager
def _worker(ground: Ground) -> Iterator[None]:
    given = ground.backend.settings.model_dump(exclude_unset=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    environment |= {f"INSTACHAT_{name.upper()}": str(value) for name, value in given.items()}
    worker = subprocess.Popen(
        [sys.executable, "-m", "instachat_cli", "worker", "--until-input-ends"],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not ground.backend.log.workers():
            if time.monotonic() > deadline or worker.poll() is not None:
                raise Failed("the worker did not start")
            time.sleep(POLL_SECONDS)
        yield
    finally:
        worker.terminate()
        worker.wait()


def _latencies(elastic: Elastic, rate: float) -> list[float]:
    """Seconds from the answer with the last number of each request until a search could find it."""
    ground = elastic.ground
    with ground.backend.database.connect() as connection:
        live = search_indices.live_index(connection)
    assert live is not None
    sent: deque[tuple[int, float]] = deque()
    done = threading.Event()
    size = max(int(rate * TURN_SECONDS), 1)
    begun = time.perf_counter()

    def talk() -> None:
        turn = 0
        while time.perf_counter() - begun < WARM_SECONDS + ground.scale.steady_seconds:
            last = 0
            for start in range(0, size, BULK):
                texts = [
                    ground.texts[n % len(ground.texts)]
                    for n in range(start, min(start + BULK, size))
                ]
                request = accept.messages(ground.chat.token, ground.chat.number, texts)
                last = ground.backend.acceptor.accept(request).last
            sent.append((last, time.perf_counter()))
            turn += 1
            time.sleep(max(0.0, begun + turn * TURN_SECONDS - time.perf_counter()))
        done.set()

    talker = threading.Thread(target=talk)
    talker.start()
    took: list[float] = []
    try:
        while sent or not done.is_set():
            if sent and elastic.index.count(live.name, ground.chat.id, sent[0][0], sent[0][0]):
                _, at = sent.popleft()
                now = time.perf_counter()
                if at - begun > WARM_SECONDS:
                    took.append(now - at)
                continue
            if sent and time.perf_counter() - sent[0][1] > PATIENCE:
                raise Failed(f"a message was not searchable {PATIENCE:.0f} s after it was accepted")
            time.sleep(POLL_SECONDS)
    finally:
        talker.join()
    return took
