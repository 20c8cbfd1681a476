"""Publishing, against the ceiling of Elasticsearch's bulks.

Storing and publishing, against one job a message.
"""

from collections.abc import Iterator
from uuid import uuid4

from backend.worker.threads import PUBLISHERS
from instachat_cli.bench.harness.baseline import JobBaseline
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

AGAINST_BULKS = Goal(must=0.7, aim=0.9)
AGAINST_JOBS = Goal(must=20, aim=40)


def measure(env: Environment) -> Iterator[Row]:
    """Publish what the outbox names.

    Then store and publish, against a job with two calls for each message.
    """
    elastic = SearchEnvironment(env)
    yield _against_bulks(elastic)
    yield _against_jobs(elastic)


def _against_bulks(elastic: SearchEnvironment) -> Row:
    env, count = elastic.env, len(elastic.env.texts)

    def reset() -> None:
        elastic.reset_index()
        env.accept_batches(env.texts)
        env.drain()

    reset()
    requests = elastic.prebuilt_requests(count)
    elastic.warm_up(requests, env.scale.warm_seconds)
    return run_pairs(
        "publish",
        f"{count:,} messages of one chat, stored in requests of 1,000; {PUBLISHERS} threads, as in a worker;"
        " the ceiling sends prebuilt bulks of the same documents to an index of the same kind, and reads only"
        " whether a bulk had errors",
        Side("publish", elastic.publish_all, count, before=reset),
        elastic.ceiling_side(requests, count),
        pairs=env.scale.pairs,
        goal=AGAINST_BULKS,
    )


def _against_jobs(elastic: SearchEnvironment) -> Row:
    env, count = elastic.env, len(elastic.env.texts)
    elastic.reset_index()
    other = f"instachat-bench-{uuid4().hex[:12]}"
    elastic.index.create(other)
    baseline = JobBaseline(env, other)
    fastest = baseline.fastest_layout()

    def accept() -> None:
        elastic.reset_index()
        env.accept_one_by_one(env.texts)

    def drain_and_publish() -> None:
        env.drain()
        elastic.publish_all()

    with baseline.consumers(fastest):
        row = run_pairs(
            "store and publish, requests of one message",
            f"{count:,} messages of one chat against {env.scale.jobs:,} jobs; one drain, then {PUBLISHERS}"
            f" publishing threads; Huey with {fastest.processes} processes of {fastest.threads} threads, the"
            f" fastest of {len(env.scale.consumers)} layouts tried; a prepared INSERT and one index request a"
            " job, neither side refreshes",
            Side(
                "drain and publish",
                drain_and_publish,
                count,
                before=accept,
                after=lambda: env.clear_messages(count),
            ),
            baseline.side(),
            pairs=env.scale.pairs,
            goal=AGAINST_JOBS,
        )
    elastic.index.drop(other)
    return row
