"""The server's processes: restarted when they die, stopped together. Runs in their parent."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from backend.domain.errors import Failed
from backend.runtime.processes import (
    CrashedAtStart,
    PythonChild,
    RestartPolicy,
    SupervisedProcess,
    stop_all,
)
from backend.runtime.signals import handling

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed
RESTART_POLICY = RestartPolicy(first_delay=0.5, max_delay=0.5, healthy=0.0, min_uptime=10.0)

_Process = SupervisedProcess[PythonChild]


def supervise(
    start_functions: Sequence[Callable[[], BaseProcess]],
    *,
    stop_timeout_seconds: float,
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """Run a process for each of `start_functions` until SIGTERM, SIGINT or SIGHUP. Main thread only.

    Each process that dies is restarted. At the end `on_stop` is called, every process gets SIGTERM, and
    SIGKILL if it is still there after `stop_timeout_seconds`. Raises Failed if a process can't be started, or
    exits with an error within RESTART_POLICY.min_uptime: a restart would fail likewise.
    """
    processes = [
        _Process("server process", partial(_start_child, start), RESTART_POLICY)
        for start in start_functions
    ]
    with _stop_signal_fd() as stop:
        try:
            for process in processes:
                process.start()
            while not _wait_for_stop(stop, processes):
                for process in processes:
                    process.restart_if_dead()
        except CrashedAtStart:
            raise Failed(
                "a process of the server exits as soon as it is started", "the log above says why"
            ) from None
        finally:
            on_stop()
            stop_all(processes, stop_timeout_seconds)


def _start_child(start: Callable[[], BaseProcess]) -> PythonChild:
    try:
        return PythonChild(start())
    except OSError as error:
        raise Failed(
            f"a process of the server can't be started: {error.strerror}",
            "are there too many processes, or too little memory?",
        ) from None


def _wait_for_stop(stop: int, processes: Sequence[_Process]) -> bool:
    """Wait for a stop signal (True), or for a process that has died or is to be restarted (False)."""
    sentinels = [process.child.sentinel for process in processes if process.child is not None]
    restarts = [process.restart_at for process in processes if process.child is None]
    timeout = max(0.0, min(restarts) - time.monotonic()) if restarts else None
    return stop in wait([stop, *sentinels], timeout)


@contextmanager
def _stop_signal_fd() -> Iterator[int]:
    """A file descriptor that is readable once a stop signal has arrived."""
    read_end, write_end = os.pipe()
    try:
        with handling(lambda *_: os.write(write_end, b"."), *STOP_SIGNALS):
            yield read_end
    finally:
        os.close(read_end)
        os.close(write_end)
