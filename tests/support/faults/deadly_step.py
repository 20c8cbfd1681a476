"""The step at which a process kills itself."""

import os
import signal
from collections.abc import Callable


def deadly_step(name: str, nth: int) -> Callable[[str], None]:
    """A `step` that sends this process SIGKILL when the named step is reached for the nth time."""
    left = nth

    def step(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    return step
