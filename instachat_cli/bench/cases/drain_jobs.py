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
from instachat_cli.bench.harness.baseline import Job, OneJobAMessage
from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, duel

GOAL = Goal(must=30)
# Not by `-m`: the module would then be `__main__`, and Huey names jobs by their module.
CONSUMER = "from instachat_cli.bench.harness.baseline import main; main()"
POLL = 0.003
PATIENCE = 120.0


def measure(ground: Ground) -> Iterator[Row]:
    """Requests of one message, drained; and as jobs, by the best crew."""
    rival = Rival(ground)
    crews = ground.scale.crews
    processes, threads = best = max(crews, key=rival.try_out)
    count = len(ground.texts)
    with rival.crew(*best):
        yield duel(
            "drain, requests of one message",
            f"{count:,} messages of one chat against {ground.scale.jobs:,} jobs; one drain; Huey with"
            f" {processes} processes of {threads} threads, the quickest of {len(crews)} crews tried; each"
            " transaction durable; JSON, no results, a prepared INSERT",
            Side(
                "drain",
                ground.drain,
                count,
                before=lambda: ground.accept_apart(ground.texts),
                after=lambda: ground.forget_stored(count),
            ),
            rival.side(),
            pairs=ground.scale.pairs,
            goal=GOAL,
        )


class Rival:
    """Fills the queue and waits until its crew has stored everything, and written it to an index, if one is
    named.
    """

    def __init__(self, ground: Ground, index: str = "") -> None:
        settings = ground.backend.settings
        self._ground = ground
        self._index = [index] if index else []
        huey, database = settings.huey_url or "", ground.plain_url
        self._queue = OneJobAMessage(huey, database)
        self._urls = {"INSTACHAT_HUEY_URL": huey, "INSTACHAT_DATABASE_URL": database}
        if settings.elasticsearch_url:
            self._urls["INSTACHAT_ELASTICSEARCH_URL"] = settings.elasticsearch_url
        at = datetime.now(UTC)
        jobs = (
            Job(ground.chat.id, number, int(at.timestamp() * 1e6), at.isoformat(), text)
            for number, text in enumerate(ground.texts[: ground.scale.jobs], 1)
        )
        self._packed = self._queue.packed(list(jobs))

    def try_out(self, crew: tuple[int, int]) -> float:
        """The rate of a crew."""
        with self.crew(*crew):
            return self.side().measure()

    def side(self) -> Side:
        """Its side of the duel."""
        return Side(
            "one job, one INSERT" + (", one index request" if self._index else ""),
            self._store_all,
            len(self._packed),
            after=lambda: self._ground.forget_stored(len(self._packed)),
        )

    @contextmanager
    def crew(self, processes: int, threads: int) -> Iterator[None]:
        """So many consumers, warm: each has done some jobs."""
        command = [sys.executable, "-c", CONSUMER, str(threads), *self._index]
        consumers = [
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
            for consumer in consumers:
                if not (consumer.stdout and consumer.stdout.readline()):
                    raise Failed("a consumer of the rival did not start")
            self.side().measure()
            yield
        finally:
            for consumer in consumers:
                _end(consumer)

    def _store_all(self) -> None:
        deadline = time.monotonic() + PATIENCE
        self._queue.push(self._packed)
        while self._queue.waiting() or self._stored() < len(self._packed):
            if time.monotonic() > deadline:
                raise Failed(f"the jobs of the rival were not done within {PATIENCE:.0f} s")
            time.sleep(POLL)

    def _stored(self) -> int:
        with self._ground.backend.database.connect() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM message")) or 0)


def _end(consumer: "subprocess.Popen[bytes]") -> None:
    """By the end of its standard input; if that does not help, the hard way."""
    try:
        consumer.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        consumer.kill()
        consumer.communicate()
