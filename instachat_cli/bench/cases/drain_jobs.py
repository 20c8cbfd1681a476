"""Storing messages, against the usual design: a job for each message, and an INSERT in each job."""

from collections.abc import Iterator

from instachat_cli.bench.harness.baseline import JobBaseline
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

GOAL = Goal(must=30)


def measure(env: Environment) -> Iterator[Row]:
    """Drain requests of one message, against jobs run by the fastest layout of consumers."""
    baseline = JobBaseline(env)
    fastest = baseline.fastest_layout()
    count = len(env.texts)
    with baseline.consumers(fastest):
        yield run_pairs(
            "drain, requests of one message",
            f"{count:,} messages of one chat against {env.scale.jobs:,} jobs; one drain; Huey with"
            f" {fastest.processes} processes of {fastest.threads} threads, the fastest of"
            f" {len(env.scale.consumers)} layouts tried; each transaction durable; JSON, no results, a"
            " prepared INSERT",
            Side(
                "drain",
                env.drain,
                count,
                before=lambda: env.accept_one_by_one(env.texts),
                after=lambda: env.clear_messages(count),
            ),
            baseline.side(),
            pairs=env.scale.pairs,
            goal=GOAL,
        )
