"""How a command's process reacts to signals. Light, so that it reacts before it loads the core."""

import os
import signal
import sys
from contextlib import AbstractContextManager

from backend.runtime.signals import handling, terminate_after

_interrupted = False


def note_interrupts() -> None:
    """Have Ctrl-C raise KeyboardInterrupt as usual, and be remembered: see `was_interrupted`.

    A process that was started with SIGINT ignored, as by `nohup`, goes on to ignore it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def was_interrupted() -> bool:
    """Whether this process was told to end, also if the KeyboardInterrupt was lost on its way.

    Where it is raised decides what becomes of it: while a library cleans up, its own error takes the place.
    """
    return _interrupted


def _interrupt(*_: object) -> None:
    global _interrupted  # noqa: PLW0603  # a signal handler has no other place
    _interrupted = True
    raise KeyboardInterrupt


def exit_on_signals() -> None:
    """Exit with 0 on SIGTERM and SIGINT, until the command installs handlers of its own.

    Not by an exception: one that is raised while modules are loaded may be swallowed there.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def terminate_on_stdin_end() -> None:
    """Send this process SIGTERM when its standard input ends."""

    def wait_for_end() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass

    terminate_after(wait_for_end, "input")


def signals_as_keyboard_interrupt() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP too, so that the command cleans up."""
    return handling(_interrupt, signal.SIGTERM, signal.SIGHUP)
