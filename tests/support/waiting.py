"""Waiting, for tests: as long as it takes on a slow machine, and no longer."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 120.0
"""How long a test waits for what has to happen: it goes on as soon as that has happened."""

MARGIN_SECONDS = 20.0
"""What a busy machine may add to a time that is promised.

A program that breaks such a promise hangs, or tries again and again: it takes minutes.
"""


def wait_until(is_so: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Return once that is so; fails if it takes longer."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"it was not so within {seconds:g} s"
        time.sleep(0.02)


@contextmanager
def promised(seconds: float) -> Iterator[None]:
    """What is inside takes at most that long, and what a busy machine may add."""
    since = time.monotonic()
    yield
    took = time.monotonic() - since
    assert took < seconds + MARGIN_SECONDS, f"it took {took:.1f} s, and {seconds:g} s are promised"
