"""The job queue: every kind of job reaches its handler, and where a publish wake-up goes."""

import threading

from backend.bootstrap import Backend
from backend.worker.queue import CONSUMER_THREADS, JobHandlers
from tests.support.waiting import wait_until


def test_a_worker_wakes_its_own_publishers_without_a_job(backend: Backend) -> None:
    """A drain in a worker process need not send a wake-up through Redis to its own process."""
    woken = threading.Event()
    handlers = JobHandlers(drain=lambda _: None, publish=woken.set)
    backend.workers.pause()  # no job is taken
    try:
        with backend.jobs.consuming(handlers):
            backend.jobs.notify_publisher()
            assert woken.is_set()
            assert backend.jobs.count_by_name() == {}
        backend.jobs.notify_publisher()
        assert backend.jobs.count_by_name() == {"publish": 1}
    finally:
        backend.workers.resume()


def test_a_job_of_another_process_wakes_the_publishers(backend: Backend) -> None:
    """An edit through the HTTP API enqueues a job, which a worker takes."""
    woken = threading.Event()
    backend.jobs.notify_publisher()
    with backend.jobs.consuming(JobHandlers(drain=lambda _: None, publish=woken.set)):
        wait_until(woken.is_set)


def test_each_kind_of_job_reaches_its_handler(backend: Backend) -> None:
    """No sweep runs here, so only the job can have called the handler."""
    called: set[object] = set()
    handlers = JobHandlers(
        drain=lambda shard: called.add(("drain", shard)),
        cascade=lambda: called.add("cascade"),
        sync_counters=lambda: called.add("sync_counters"),
        publish=lambda: called.add("publish"),
        reindex=lambda: called.add("reindex"),
    )
    backend.jobs.notify_drain(3)
    backend.jobs.notify_cascade()
    backend.jobs.notify_sync()
    backend.jobs.notify_publisher()
    backend.jobs.request_reindex()
    with backend.jobs.consuming(handlers):
        wait_until(
            lambda: called == {("drain", 3), "cascade", "sync_counters", "publish", "reindex"}
        )


def test_an_error_of_a_handler_ends_no_thread(backend: Backend) -> None:
    """After more errors than there are threads, the next job still runs."""
    drained: list[int] = []

    def drain(shard: int) -> None:
        if shard:
            raise RuntimeError
        drained.append(shard)

    for shard in (*range(1, CONSUMER_THREADS + 2), 0):
        backend.jobs.notify_drain(shard)
    with backend.jobs.consuming(JobHandlers(drain=drain)):
        wait_until(lambda: drained == [0])
