"""Processes that are kept up: started anew when they die, ended together."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from backend.domain.errors import Failed

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed
MIN_UPTIME_SECONDS = 10.0  # a process that ends itself before has never worked
RESTART_DELAY_SECONDS = 0.5  # before a process is started anew

logger = logging.getLogger(__name__)


def supervise(
    start_functions: Sequence[Callable[[], BaseProcess]],
    *,
    stop_timeout_seconds: float,
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """Have a process by each of `start_functions` until SIGTERM, SIGINT or SIGHUP. In the main thread only.

    Then `on_stop` is called, all get SIGTERM, and those still there after `stop_timeout_seconds`
    SIGKILL. Whatever kills a process, another one is started; raises Failed if one ends by itself, by an
    error, soon after its start.
    """
    with _stop_signal_fd() as stop:
        running: dict[int, _RunningProcess] = {}
        try:
            for index, start in enumerate(start_functions):
                running[index] = _RunningProcess(start)
            while stop not in (
                ready := wait([stop, *(child.sentinel for child in running.values())])
            ):
                for index, child in running.items():
                    if child.sentinel in ready:
                        child.raise_if_failing()
                        if wait([stop], RESTART_DELAY_SECONDS):
                            return
                        running[index] = _RunningProcess(start_functions[index])
        finally:
            on_stop()
            _stop_all([child.process for child in running.values()], stop_timeout_seconds)


class _RunningProcess:
    """A process, and since when."""

    def __init__(self, start: Callable[[], BaseProcess]) -> None:
        try:
            self.process = start()
        except OSError as error:
            raise Failed(
                f"a process of the server can't be started: {error.strerror}",
                "are there too many processes, or too little memory?",
            ) from None
        self.sentinel: int = self.process.sentinel
        self._started_at = time.monotonic()

    def raise_if_failing(self) -> None:
        """Say how it ended; raises Failed if another one would end likewise."""
        self.process.join()
        code = self.process.exitcode or 0
        if code > 0 and time.monotonic() - self._started_at < MIN_UPTIME_SECONDS:
            raise Failed(
                "a process of the server ends as soon as it is started", "the log above says why"
            )
        how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
        logger.warning("a process of the server was %s: another one is started", how)


@contextmanager
def _stop_signal_fd() -> Iterator[int]:
    """A file descriptor that can be read from once a signal has come."""
    read_end, write_end = os.pipe()
    previous = {
        number: signal.signal(number, lambda *_: os.write(write_end, b"."))
        for number in STOP_SIGNALS
    }
    try:
        yield read_end
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


def _stop_all(processes: Sequence[BaseProcess], timeout: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            logger.warning(
                "a process of the server did not end within %.0f s: it is killed", timeout
            )
            process.kill()
            process.join()
