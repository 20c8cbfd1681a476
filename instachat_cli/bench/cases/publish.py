"""Publishing, against the ceiling of Elasticsearch's bulks; storing and publishing, against the usual way."""

import threading
from collections.abc import Iterator
from uuid import uuid4

from backend.search.publish import PUBLISHERS
from instachat_cli.bench.cases.drain_jobs import Rival
from instachat_cli.bench.harness.elasticsearch import Elastic
from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, duel

OF_THE_CEILING = Goal(must=0.7, aim=0.9)
AGAINST_CALLS = Goal(must=20, aim=40)


def measure(ground: Ground) -> Iterator[Row]:
    """What the outbox names, published; then from the log to the index, beside a job and two calls each."""
    elastic = Elastic(ground)
    count = len(ground.texts)
    elastic.renew()
    _store(ground)
    requests = elastic.prebuilt(count)
    elastic.warm(requests, ground.scale.warm_seconds)

    def renewed() -> None:
        elastic.renew()
        _store(ground)

    yield duel(
        "publish",
        f"{count:,} messages of one chat, stored in requests of 1,000; {PUBLISHERS} threads, as in a"
        " worker; the ceiling sends the same documents, made before, to an index of the same kind, and does"
        " not read what became of each",
        Side("publish", lambda: publish(elastic), count, before=renewed),
        elastic.ceiling(requests, count),
        pairs=ground.scale.pairs,
        goal=OF_THE_CEILING,
    )
    yield from _against_calls(elastic)


def _against_calls(elastic: Elastic) -> Iterator[Row]:
    ground = elastic.ground
    count = len(ground.texts)
    elastic.renew()
    other = f"instachat-bench-{uuid4().hex[:12]}"
    elastic.index.create(other)
    rival = Rival(ground, other)
    processes, threads = best = max(ground.scale.crews, key=rival.try_out)

    def accepted() -> None:
        elastic.renew()
        ground.accept_apart(ground.texts)

    with rival.crew(*best):
        yield duel(
            "store and publish, requests of one message",
            f"{count:,} messages of one chat against {ground.scale.jobs:,} jobs; one drain, then"
            f" {PUBLISHERS} publishing threads; Huey with {processes} processes of {threads} threads, the"
            f" quickest of {len(ground.scale.crews)} crews tried; a prepared INSERT and one index request a"
            " job, neither refreshes",
            Side(
                "drain and publish",
                lambda: _drain(elastic),
                count,
                before=accepted,
                after=lambda: ground.forget_stored(count),
            ),
            rival.side(),
            pairs=ground.scale.pairs,
            goal=AGAINST_CALLS,
        )
    elastic.index.drop(other)


def _store(ground: Ground) -> None:
    ground.accept_bulk(ground.texts)
    ground.drain()


def _drain(elastic: Elastic) -> None:
    elastic.ground.drain()
    publish(elastic)


def publish(elastic: Elastic) -> None:
    threads = [threading.Thread(target=elastic.publisher.publish) for _ in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
