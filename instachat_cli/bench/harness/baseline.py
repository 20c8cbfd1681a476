"""The baseline with a job for each message: its consumer processes, and its side of a paired run."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from backend.domain.errors import Failed
from backend.settings import environment_variable
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.job_queue import Job, JobPerMessageQueue
from instachat_cli.bench.harness.paired_run import Side
from instachat_cli.bench.harness.processes import child_process

# Not `-m`: the module would then be called `__main__`, and Huey names jobs by their module.
CONSUMER = "from instachat_cli.bench.harness.job_queue import main; main()"
POLL_SECONDS = 0.003
TIMEOUT_SECONDS = 120.0


class ConsumerLayout(NamedTuple):
    """How many consumer processes, of how many threads each."""

    processes: int
    threads: int


class JobBaseline:
    """Queues a job for each message and waits until the consumers have stored all of them.

    With the name of an index, the jobs also write the messages to that index.
    """

    def __init__(self, env: Environment, index: str = "") -> None:
        settings = env.backend.settings
        self._env = env
        self._index = [index] if index else []
        huey, database = settings.huey_url or "", env.driver_url
        self._queue = JobPerMessageQueue(huey, database)
        self._urls = {
            environment_variable("huey_url"): huey,
            environment_variable("database_url"): database,
        }
        if settings.elasticsearch_url:
            self._urls[environment_variable("elasticsearch_url")] = settings.elasticsearch_url
        at = datetime.now(UTC)
        jobs = (
            Job(env.chat.id, number, int(at.timestamp() * 1e6), at.isoformat(), text)
            for number, text in enumerate(env.texts[: env.scale.jobs], 1)
        )
        self._serialized = self._queue.serialized(list(jobs))

    def fastest_layout(self) -> ConsumerLayout:
        """The layout of consumers with the highest rate, of all that the scale names."""
        layouts = [ConsumerLayout(*layout) for layout in self._env.scale.consumers]
        return max(layouts, key=self._measure_layout)

    def side(self) -> Side:
        """The baseline's side of a paired run."""
        return Side(
            "one job, one INSERT" + (", one index request" if self._index else ""),
            self._run_jobs,
            len(self._serialized),
            after=lambda: self._env.clear_messages(len(self._serialized)),
        )

    @contextmanager
    def consumers(self, layout: ConsumerLayout) -> Iterator[None]:
        """Run the consumers; they have already run all jobs once, so that none starts cold."""
        command = [sys.executable, "-c", CONSUMER, str(layout.threads), *self._index]
        with ExitStack() as stack:
            started = [
                stack.enter_context(
                    child_process(
                        command, os.environ | self._urls, stdout=subprocess.PIPE, stderr=None
                    )
                )
                for _ in range(layout.processes)
            ]
            for consumer in started:
                if not (consumer.stdout and consumer.stdout.readline()):
                    raise Failed("a consumer of the baseline did not start")
            self.side().measure()
            yield

    def _measure_layout(self, layout: ConsumerLayout) -> float:
        with self.consumers(layout):
            return self.side().measure()

    def _run_jobs(self) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        self._queue.push(self._serialized)
        while self._queue.pending() or self._env.count_messages() < len(self._serialized):
            if time.monotonic() > deadline:
                raise Failed(
                    f"the jobs of the baseline were not done within {TIMEOUT_SECONDS:.0f} s"
                )
            time.sleep(POLL_SECONDS)
