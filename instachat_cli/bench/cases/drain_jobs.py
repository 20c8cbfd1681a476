"""Storing, against the usual way: a job for each message, and an INSERT in each job."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import text

from backend.domain.errors import Failed
from instachat_cli.bench.harness.baseline import Job, JobPerMessageQueue
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

GOAL = Goal(must=30)
# Not by `-m`: the module would then be `__main__`, and Huey names jobs by their module.
CONSUMER = "from instachat_cli.bench.harness.baseline import main; main()"
POLL_SECONDS = 0.003
TIMEOUT_SECONDS = 120.0


def measure(env: Environment) -> Iterator[Row]:
    """Requests of one message, drained; and as jobs, by the best layout of consumers."""
    baseline = JobBaseline(env)
    layouts = env.scale.consumers
    processes, threads = best = max(layouts, key=baseline.measure_layout)
    count = len(env.texts)
    with baseline.consumers(*best):
        yield run_pairs(
            "drain, requests of one message",
            f"{count:,} messages of one chat against {env.scale.jobs:,} jobs; one drain; Huey with"
            f" {processes} processes of {threads} threads, the quickest of {len(layouts)} crews tried; each"
            " transaction durable; JSON, no results, a prepared INSERT",
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


class JobBaseline:
    """Fills the queue and waits until its crew has stored everything, and written it to an index, if one is
    named.
    """

    def __init__(self, env: Environment, index: str = "") -> None:
        settings = env.backend.settings
        self._env = env
        self._index = [index] if index else []
        huey, database = settings.huey_url or "", env.driver_url
        self._queue = JobPerMessageQueue(huey, database)
        self._urls = {"INSTACHAT_HUEY_URL": huey, "INSTACHAT_DATABASE_URL": database}
        if settings.elasticsearch_url:
            self._urls["INSTACHAT_ELASTICSEARCH_URL"] = settings.elasticsearch_url
        at = datetime.now(UTC)
        jobs = (
            Job(env.chat.id, number, int(at.timestamp() * 1e6), at.isoformat(), text)
            for number, text in enumerate(env.texts[: env.scale.jobs], 1)
        )
        self._serialized = self._queue.serialized(list(jobs))

    def measure_layout(self, layout: tuple[int, int]) -> float:
        """The rate of a crew."""
        with self.consumers(*layout):
            return self.side().measure()

    def side(self) -> Side:
        """Its side of the duel."""
        return Side(
            "one job, one INSERT" + (", one index request" if self._index else ""),
            self._run_jobs,
            len(self._serialized),
            after=lambda: self._env.clear_messages(len(self._serialized)),
        )

    @contextmanager
    def consumers(self, processes: int, threads: int) -> Iterator[None]:
        """So many consumers, warm: each has done some jobs."""
        command = [sys.executable, "-c", CONSUMER, str(threads), *self._index]
        processes_ = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | self._urls,
                start_new_session=True,  # Ctrl-C is for us, and their standard input ends with us
            )
            for _ in range(processes)
        ]
        try:
            for consumer in processes_:
                if not (consumer.stdout and consumer.stdout.readline()):
                    raise Failed("a consumer of the baseline did not start")
            self.side().measure()
            yield
        finally:
            for consumer in processes_:
                _stop_consumer(consumer)

    def _run_jobs(self) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        self._queue.push(self._serialized)
        while self._queue.pending() or self._stored_count() < len(self._serialized):
            if time.monotonic() > deadline:
                raise Failed(
                    f"the jobs of the baseline were not done within {TIMEOUT_SECONDS:.0f} s"
                )
            time.sleep(POLL_SECONDS)

    def _stored_count(self) -> int:
        with self._env.backend.database.connect() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM message")) or 0)


def _stop_consumer(consumer: "subprocess.Popen[bytes]") -> None:
    """By the end of its standard input; if that does not help, the hard way."""
    try:
        consumer.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        consumer.kill()
        consumer.communicate()
