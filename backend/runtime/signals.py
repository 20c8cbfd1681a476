"""Signal handlers of this process."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handling(handler: Callable[..., object], *numbers: signal.Signals) -> Iterator[None]:
    """Install `handler` for these signals and restore the previous handlers at the end. Main thread only."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


def terminate_after(wait: Callable[[], object], name: str) -> None:
    """Send this process SIGTERM once `wait` returns, which a daemon thread of that name calls."""

    def wait_and_terminate() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_and_terminate, name=name, daemon=True).start()
