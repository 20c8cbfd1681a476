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

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed
YOUNG_SECONDS = 10.0  # a process that ends itself before has never worked
PAUSE_SECONDS = 0.5  # before a process is started anew

logger = logging.getLogger(__name__)


def keep_up(
    starts: Sequence[Callable[[], BaseProcess]],
    *,
    ends_within: float,
    closing: Callable[[], object] = lambda: None,
) -> None:
    """Have a process by each of `starts` until SIGTERM, SIGINT or SIGHUP. In the main thread only.

    Then `closing` is called, all get SIGTERM, and those that are still there after `ends_within` seconds
    SIGKILL. Whatever kills a process, another one is started; raises Failed if one ends by itself, by an
    error, soon after its start.
    """
    with _told_to_stop() as stop:
        running: dict[int, _Running] = {}
        try:
            for place, start in enumerate(starts):
                running[place] = _Running(start)
            while stop not in (ready := wait([stop, *(one.sentinel for one in running.values())])):
                for place, one in running.items():
                    if one.sentinel in ready:
                        one.check()
                        if wait([stop], PAUSE_SECONDS):
                            return
                        running[place] = _Running(starts[place])
        finally:
            closing()
            _end([one.process for one in running.values()], ends_within)


class _Running:
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
        self._since = time.monotonic()

    def check(self) -> None:
        """Say how it ended; raises Failed if another one would end likewise."""
        self.process.join()
        code = self.process.exitcode or 0
        if code > 0 and time.monotonic() - self._since < YOUNG_SECONDS:
            raise Failed(
                "a process of the server ends as soon as it is started", "the log above says why"
            )
        how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
        logger.warning("a process of the server was %s: another one is started", how)


@contextmanager
def _told_to_stop() -> Iterator[int]:
    """A file descriptor that can be read from once a signal has come."""
    hear, tell = os.pipe()
    before = {number: signal.signal(number, lambda *_: os.write(tell, b".")) for number in STOPPING}
    try:
        yield hear
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(hear)
        os.close(tell)


def _end(processes: Sequence[BaseProcess], within: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + within
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            logger.warning(
                "a process of the server did not end within %.0f s: it is killed", within
            )
            process.kill()
            process.join()
