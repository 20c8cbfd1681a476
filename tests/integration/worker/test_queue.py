"""The job queue: where a wake-up goes, depending on the process that it is in."""

import threading

from backend.bootstrap import Backend
from backend.worker.queue import JobHandlers


def test_a_worker_wakes_its_own_publishers_without_a_job(backend: Backend) -> None:
    """A drain in a worker process need not send a wake-up through Redis to its own process."""
    woken = threading.Event()
    handlers = JobHandlers(drain=lambda _: None, publish=woken.set)
    backend.log.pause()  # no job is taken
    try:
        with backend.jobs.consuming(handlers):
            backend.jobs.notify_publisher()
            assert woken.is_set()
            assert backend.jobs.count_by_name() == {}
        backend.jobs.notify_publisher()
        assert backend.jobs.count_by_name() == {"publish": 1}
    finally:
        backend.log.resume()


def test_a_job_of_another_process_wakes_the_publishers(backend: Backend) -> None:
    """An edit through the HTTP API enqueues a job, which a worker takes."""
    woken = threading.Event()
    backend.jobs.notify_publisher()
    with backend.jobs.consuming(JobHandlers(drain=lambda _: None, publish=woken.set)):
        assert woken.wait(10)
