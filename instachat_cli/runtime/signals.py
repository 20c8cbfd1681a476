"""How a process hears that it is to end. Light, so that it listens before it loads the core."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def exit_on_signals() -> None:
    """Have SIGTERM and SIGINT end this process with 0, until its work begins and listens by itself.

    Not by an exception: what is raised while modules are loaded may be swallowed there.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def terminate_on_stdin_end() -> None:
    """Have this process asked to end, as by SIGTERM, when its standard input ends."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="input", daemon=True).start()


@contextmanager
def signals_as_keyboard_interrupt() -> Iterator[None]:
    """Have SIGTERM and the terminal's closing do what Ctrl-C does: what was begun is tidied up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
