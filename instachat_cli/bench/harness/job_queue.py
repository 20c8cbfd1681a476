"""The queue of the baseline, on Huey: each message is a job, and each job is one INSERT.

With an index, each job also sends Elasticsearch one request. It is as fast as the method allows: JSON
instead of pickle, no results, and a prepared statement on a connection that each thread keeps, so one round
trip a job.
"""

import logging
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

import psycopg2
import redis
from huey import RedisHuey
from huey.consumer import Consumer

from backend.bootstrap import open_index
from backend.domain.folding import fold
from backend.settings import load
from backend.storage.search_index import Document, SearchIndex
from backend.worker.queue import JsonSerializer

INSERT = "EXECUTE store (%s, %s, %s, %s, %s, %s)"
PREPARE = """
    PREPARE store (bigint, bigint, bigint, timestamptz, text, text) AS
    INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
    VALUES ($1, $2, $3, $4, $4, $5, $6)"""


class Job(NamedTuple):
    """The columns of one message, without the folded text, which the job computes."""

    chat_id: int
    number: int
    version: int
    at: str
    text: str


class JobPerMessageQueue:
    """The queue and its job. With an index, the job also writes the message to it."""

    def __init__(
        self, huey_url: str, database_url: str, index: SearchIndex | None = None, name: str = ""
    ) -> None:
        pool = redis.ConnectionPool.from_url(huey_url, socket_connect_timeout=2, socket_timeout=10)
        self.huey = RedisHuey(
            "instachatbench", results=False, serializer=JsonSerializer(), connection_pool=pool
        )
        self._task = self.huey.task(name="store")(self._store)
        self._database_url = database_url
        self._index = index
        self._name = name
        self._thread = threading.local()

    def serialized(self, jobs: Sequence[Job]) -> list[bytes]:
        """The jobs in the form in which the queue holds them."""
        return [self.huey.serialize_task(self._task.s(*job)) for job in jobs]

    def push(self, serialized: Sequence[bytes]) -> None:
        """Enqueue all jobs by one call, which is faster than one call each."""
        self.huey.storage.conn.lpush(self.huey.storage.queue_key, *serialized)

    def pending(self) -> int:
        """The number of jobs that no consumer has taken yet."""
        return int(self.huey.pending_count())

    def consume(self, threads: int) -> None:
        """Print a line, then run jobs until standard input ends."""
        consumer = Consumer(self.huey, workers=threads, periodic=False)
        consumer.start()
        sys.stdout.write("started\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
        consumer.stop(graceful=True)

    def _store(self, chat_id: int, number: int, version: int, at: str, text: str) -> None:
        folded = fold(text)
        self._cursor().execute(INSERT, (chat_id, number, version, at, text, folded))
        if self._index:
            self._index.write(self._name, [Document(chat_id, number, version, folded)])

    def _cursor(self) -> "psycopg2.extensions.cursor":
        cursor: psycopg2.extensions.cursor | None = getattr(self._thread, "cursor", None)
        if cursor is None:
            connection = psycopg2.connect(self._database_url)
            connection.autocommit = True
            cursor = self._thread.cursor = connection.cursor()
            cursor.execute("SET synchronous_commit = on")
            cursor.execute(PREPARE)
        return cursor


def main() -> None:
    """Run a consumer process on the engines of the settings.

    The first argument is the number of threads; an optional second one names the index to write to. The
    process ends when its standard input ends, and so with its parent.
    """
    logging.basicConfig(level=logging.WARNING)
    settings = load()
    urls = settings.huey_url or "", settings.database_url or ""
    threads, *names = sys.argv[1:]
    JobPerMessageQueue(*urls, open_index(settings) if names else None, *names).consume(int(threads))
