"""Waiting in tests: as long as a slow machine needs, and no longer."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 120.0
"""How long a test waits for a condition; it continues as soon as the condition holds."""

MARGIN_SECONDS = 20.0
"""How much longer than a promised time an operation may take on a busy machine.

A program that breaks such a promise hangs or retries for minutes, so the margin does not hide it.
"""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds:g} s"
        time.sleep(0.02)


@contextmanager
def promised(seconds: float) -> Iterator[None]:
    """Assert that the block takes at most so many seconds plus MARGIN_SECONDS."""
    since = time.monotonic()
    yield
    took = time.monotonic() - since
    assert took < seconds + MARGIN_SECONDS, f"it took {took:.1f} s, but {seconds:g} s are promised"
