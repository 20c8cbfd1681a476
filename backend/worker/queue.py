"""The job queue, on Huey. No other module of the backend imports Huey or speaks to the queue's Redis.

Huey removes a job before it runs it, so a crash loses the job. Therefore a job carries no message: it only
wakes a worker up, and every worker also sweeps on its own timer, which finds what a lost job asked for.

To use another queue, keep the methods of `JobQueue` and this contract:
- `notify_…` never raise and never block for long; at 100 queued jobs they drop the job.
- No job is taken while `may_work` returns False, even if the pause came while a thread waited for a job.
- An error of a handler, or a job that can't be read, is logged or discarded and ends no thread.
- While Redis does not answer, the threads retry; they take jobs again when it is back, also if it is full.
- Leaving `consuming` waits for the jobs that run. No thread keeps the process alive.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis
from huey import RedisHuey
from huey.registry import Message
from huey.serializer import Serializer

from backend.domain.errors import EngineDown, InstaChatError, Invalid, Unconfirmed
from backend.settings import redact, refuse_unquoted_password
from backend.storage.redis.errors import never_sent

PAUSED_POLL_SECONDS = 0.5
SHUTDOWN_TIMEOUT_SECONDS = 30  # for the jobs that run when a worker ends
CONSUMER_THREADS = 2
QUEUE_NAME = "instachat"
QUEUE_KEY = f"huey.redis.{QUEUE_NAME}"  # the list of the jobs; Huey gives it that name
MAX_QUEUED_WAKE_UPS = 100
PAGE_SIZE = 1_000  # jobs read at once when they are counted


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class JobHandlers:
    """What a worker does for each kind of job. A handler should not raise: the queue only logs its error."""

    drain: Callable[[int], object]
    """Takes the shard."""
    cascade: Callable[[], object] = _do_nothing
    sync_counters: Callable[[], object] = _do_nothing
    publish: Callable[[], object] = _do_nothing
    """Must return at once, because a drain in the same process calls it directly."""
    reindex: Callable[[], object] = _do_nothing
    """Must return at once: the other jobs would wait for a reindex."""


class JobQueue:
    """The queue: any process enqueues, and a worker runs the jobs inside `consuming`. Thread-safe."""

    def __init__(self, url: str, may_work: Callable[[], bool]) -> None:
        """While `may_work` returns False, as when the queue is paused, no job is taken.

        Raises Invalid if the URL can't be used. Connects at the first call.
        """
        refuse_unquoted_password(url, "job queue's")
        try:
            # Not the log's client: Huey's blocking pop needs a longer time-out for replies.
            pool = redis.ConnectionPool.from_url(url, socket_connect_timeout=2, socket_timeout=10)
        except ValueError as error:
            raise Invalid(
                f"the job queue's URL {redact(url)} can't be used: {error}",
                "it looks like redis://HOST:6379/0 (INSTACHAT_HUEY_URL)",
            ) from None
        self._huey = PausableHuey(
            QUEUE_NAME,
            results=False,
            serializer=JsonSerializer(),
            connection_pool=pool,
            may_work=may_work,
        )
        self._handlers: JobHandlers | None = None  # while this process is a worker
        self._drain_task = self._huey.task(name="drain")(lambda shard: self._run().drain(shard))
        self._cascade_task = self._huey.task(name="cascade")(lambda: self._run().cascade())
        self._sync_task = self._huey.task(name="sync-counters")(lambda: self._run().sync_counters())
        self._publish_task = self._huey.task(name="publish")(lambda: self._run().publish())
        self._reindex_task = self._huey.task(name="reindex")(lambda: self._run().reindex())

    # -- enqueueing --------------------------------------------------------------------------------

    def notify_drain(self, shard: int) -> None:
        """Enqueue a drain of a shard. Never raises: a worker's sweep drains without the job, too."""
        self._enqueue(lambda: self._drain_task(shard))

    def notify_publisher(self) -> None:
        """Wake a publisher up: this process's own if it is a worker, else by a job. Never raises."""
        if handlers := self._handlers:
            handlers.publish()
        else:
            self._enqueue(self._publish_task)

    def notify_cascade(self) -> None:
        """Enqueue the removal of what deleted parents have left. Never raises, as `notify_drain`."""
        self._enqueue(self._cascade_task)

    def notify_sync(self) -> None:
        """Enqueue a counter sync. Never raises: the worker asks again a minute later."""
        self._enqueue(self._sync_task)

    def request_reindex(self) -> None:
        """Enqueue a reindex: a worker starts one, or resumes one that was interrupted.

        Several requests, or one while a reindex runs, have the effect of one. Raises EngineDown if the
        queue's Redis can't be reached, Unconfirmed if it does not answer.
        """
        try:
            self._reindex_task()
        except redis.RedisError as error:
            message = f"the job queue does not answer ({type(error).__name__})"
            hint = "see `instachat doctor`; the setting is INSTACHAT_HUEY_URL"
            if never_sent(error):
                raise EngineDown(f"{message}; nothing was enqueued", hint) from None
            raise Unconfirmed(f"{message}: the reindex may be enqueued", hint) from None

    def _enqueue(self, enqueue: Callable[[], object]) -> None:
        with suppress(InstaChatError, redis.RedisError):
            # Further wake-ups are dropped: while no worker runs, the queue must not grow.
            if self.length() < MAX_QUEUED_WAKE_UPS:
                enqueue()

    # -- running -----------------------------------------------------------------------------------

    @contextmanager
    def consuming(self, handlers: JobHandlers) -> Iterator[None]:
        """Run jobs in two threads while inside; the end waits for the jobs that run, up to 30 seconds."""
        from huey.consumer import Consumer  # slow to import, and only workers need it

        class ThreadConsumer(Consumer):  # type: ignore[misc]  # huey is untyped
            def _set_signal_handlers(self) -> None:
                """Huey's would drop the jobs that run; the worker installs its own."""

        consumer = ThreadConsumer(
            self._huey,
            workers=CONSUMER_THREADS,
            periodic=False,
            initial_delay=0.05,
            max_delay=1.0,
            shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
        )
        self._handlers = handlers
        consumer.start()
        try:
            yield
        finally:
            consumer.stop(graceful=True)
            self._handlers = None

    def _run(self) -> JobHandlers:
        assert self._handlers, "only `consuming` runs jobs"
        return self._handlers

    # -- inspecting --------------------------------------------------------------------------------

    def length(self) -> int:
        """How many jobs are queued. Raises EngineDown if the queue's Redis does not answer or refuses."""
        with _translate_errors():
            return int(self._huey.pending_count())

    def count_by_name(self) -> dict[str, int]:
        """How many jobs are queued, by name; raises as `length`."""
        found: Counter[str] = Counter()
        storage = self._huey.storage
        for start in range(0, self.length(), PAGE_SIZE):
            with _translate_errors():
                page = storage.conn.lrange(storage.queue_key, start, start + PAGE_SIZE - 1)
            found.update(map(_job_name, page))
        return dict(sorted(found.items()))


class JsonSerializer(Serializer):  # type: ignore[misc]  # huey is untyped
    """Tasks as JSON, not pickled: with write access to the queue one can only name a job."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps(data._asdict() if isinstance(data, Message) else data).encode()

    def _deserialize(self, data: bytes) -> Any:
        decoded = json.loads(data)
        return Message(**decoded) if isinstance(decoded, dict) and "name" in decoded else decoded


class PausableHuey(RedisHuey):  # type: ignore[misc]  # huey is untyped
    """Huey's queue, which returns no job while it is paused."""

    def __init__(self, *arguments: Any, may_work: Callable[[], bool], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._may_work = may_work

    def dequeue(self) -> Any:
        """The next job; None if there is none, or the queue is paused."""
        if not self._may_work():
            time.sleep(PAUSED_POLL_SECONDS)
            return None
        task = super().dequeue()
        if task is not None and not self._may_work():  # paused during the blocking pop
            self.enqueue(task)
            return None
        return task


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise EngineDown(
            f"the job queue's Redis can't be used: {error}",
            "check INSTACHAT_HUEY_URL (unset: INSTACHAT_REDIS_URL)",
        ) from None


def _job_name(data: bytes) -> str:
    try:
        return str(json.loads(data)["name"]).rpartition(".")[2]  # Huey prefixes the module's name
    except (ValueError, TypeError, KeyError):
        return "unreadable"
