"""Waiting for a condition that only repeated checks can show."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], deadline: float, *, pause: float) -> bool:
    """Check a condition every `pause` seconds until it holds.

    Returns False if it does not hold by `deadline`, a value of time.monotonic(). It is checked at least once.
    """
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
