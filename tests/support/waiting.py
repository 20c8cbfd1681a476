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


MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.02, 0.5
PAUSE_FACTOR = 4
"""How much longer a wait pauses than it looks: waiting takes at most a fifth of a processor."""


def becomes_true(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait until the condition holds, at most so many seconds; returns whether it does."""
    deadline = time.monotonic() + seconds
    while True:
        since = time.monotonic()
        if condition():
            return True
        now = time.monotonic()
        if now >= deadline:
            return False
        time.sleep(min(max(PAUSE_FACTOR * (now - since), MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS))


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds; fails after so many seconds."""
    assert becomes_true(condition, seconds), f"the condition did not hold within {seconds:g} s"


@contextmanager
def promised(seconds: float) -> Iterator[None]:
    """Assert that the block takes at most so many seconds plus MARGIN_SECONDS."""
    since = time.monotonic()
    yield
    took = time.monotonic() - since
    assert took < seconds + MARGIN_SECONDS, f"it took {took:.1f} s, but {seconds:g} s are promised"
