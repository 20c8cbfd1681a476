"""Publishing, against the ceiling of Elasticsearch's bulks; storing and publishing, against the usual way."""

import threading
from collections.abc import Iterator
from uuid import uuid4

from backend.worker.threads import PUBLISHERS
from instachat_cli.bench.cases.drain_jobs import JobBaseline
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

OF_THE_CEILING = Goal(must=0.7, aim=0.9)
AGAINST_CALLS = Goal(must=20, aim=40)


def measure(env: Environment) -> Iterator[Row]:
    """What the outbox names, published; then from the log to the index, beside a job and two calls each."""
    elastic = SearchEnvironment(env)
    count = len(env.texts)
    elastic.reset_index()
    _store_messages(env)
    requests = elastic.prebuilt_requests(count)
    elastic.warm_up(requests, env.scale.warm_seconds)

    def reset() -> None:
        elastic.reset_index()
        _store_messages(env)

    yield run_pairs(
        "publish",
        f"{count:,} messages of one chat, stored in requests of 1,000; {PUBLISHERS} threads, as in a"
        " worker; the ceiling sends the same documents, made before, to an index of the same kind, and does"
        " not read what became of each",
        Side("publish", lambda: publish_all(elastic), count, before=reset),
        elastic.ceiling_side(requests, count),
        pairs=env.scale.pairs,
        goal=OF_THE_CEILING,
    )
    yield from _against_calls(elastic)


def _against_calls(elastic: SearchEnvironment) -> Iterator[Row]:
    env = elastic.env
    count = len(env.texts)
    elastic.reset_index()
    other = f"instachat-bench-{uuid4().hex[:12]}"
    elastic.index.create(other)
    baseline = JobBaseline(env, other)
    processes, threads = best = max(env.scale.consumers, key=baseline.measure_layout)

    def accepted() -> None:
        elastic.reset_index()
        env.accept_one_by_one(env.texts)

    with baseline.consumers(*best):
        yield run_pairs(
            "store and publish, requests of one message",
            f"{count:,} messages of one chat against {env.scale.jobs:,} jobs; one drain, then"
            f" {PUBLISHERS} publishing threads; Huey with {processes} processes of {threads} threads, the"
            f" quickest of {len(env.scale.consumers)} crews tried; a prepared INSERT and one index request a"
            " job, neither refreshes",
            Side(
                "drain and publish",
                lambda: _drain_and_publish(elastic),
                count,
                before=accepted,
                after=lambda: env.clear_messages(count),
            ),
            baseline.side(),
            pairs=env.scale.pairs,
            goal=AGAINST_CALLS,
        )
    elastic.index.drop(other)


def _store_messages(env: Environment) -> None:
    env.accept_batches(env.texts)
    env.drain()


def _drain_and_publish(elastic: SearchEnvironment) -> None:
    elastic.env.drain()
    publish_all(elastic)


def publish_all(elastic: SearchEnvironment) -> None:
    threads = [threading.Thread(target=elastic.publisher.publish) for _ in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
