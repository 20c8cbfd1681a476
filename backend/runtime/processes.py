"""Child processes that are restarted when they die and stopped together.

The private engines' supervisor does not use this: it restarts by locks and readiness, and shares no code
with the rest so that it stays small.
"""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

SOURCE_ROOT = Path(__file__).parents[2]
logger = logging.getLogger(__name__)


class Child(Protocol):
    """A child process, whatever started it."""

    @property
    def pid(self) -> int | None:
        """Its process number."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal killed it."""

    def wait(self, seconds: float | None) -> bool:
        """Wait for its end, forever if `seconds` is None; returns whether it has ended."""

    def terminate(self) -> None:
        """Send it SIGTERM, if it runs."""

    def kill(self) -> None:
        """Send it SIGKILL, if it runs."""

    def close(self) -> None:
        """Release what this process holds of it. Only after its end."""


class CommandChild:
    """A child that `subprocess.Popen` started."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    @property
    def pid(self) -> int | None:
        """Its process number."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal killed it."""
        return self.process.poll()

    def wait(self, seconds: float | None) -> bool:
        """Wait for its end, forever if `seconds` is None; returns whether it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Send it SIGTERM, if it runs."""
        self.process.terminate()

    def kill(self) -> None:
        """Send it SIGKILL, if it runs."""
        self.process.kill()

    def close(self) -> None:
        """Close this end of its standard input."""
        if self.process.stdin is not None:
            self.process.stdin.close()


class PythonChild:
    """A child that `multiprocessing` started."""

    def __init__(self, process: "BaseProcess") -> None:
        self.process = process

    @property
    def pid(self) -> int | None:
        """Its process number."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal killed it."""
        return self.process.exitcode

    @property
    def sentinel(self) -> int:
        """A file descriptor that is readable once the process has ended."""
        return self.process.sentinel

    def wait(self, seconds: float | None) -> bool:
        """Wait for its end, forever if `seconds` is None; returns whether it has ended."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def terminate(self) -> None:
        """Send it SIGTERM, if it runs."""
        self.process.terminate()

    def kill(self) -> None:
        """Send it SIGKILL, if it runs."""
        self.process.kill()

    def close(self) -> None:
        """Release the sentinel."""
        self.process.close()


ChildType = TypeVar("ChildType", bound=Child)


class RestartPolicy(NamedTuple):
    """When a dead process is started again. All in seconds."""

    first_delay: float
    max_delay: float
    """The delay doubles with each death up to this one."""
    healthy: float
    """A process that ran longer than this starts again with the first delay."""
    min_uptime: float = 0.0
    """A process that exits with an error before this is not restarted: see CrashedAtStart."""


class CrashedAtStart(Exception):
    """A process exited by itself, with an error, too soon after its start for a restart to help."""


class SupervisedProcess(Generic[ChildType]):
    """A process that is started again whenever it dies, until it is stopped.

    `start_child` starts one and returns it; what it raises is raised by `start` and `restart_if_dead`.
    """

    def __init__(
        self, name: str, start_child: Callable[[], ChildType], policy: RestartPolicy
    ) -> None:
        self.child: ChildType | None = None
        """None before the start, after the end, and while the restart is delayed."""
        self.restart_at = 0.0
        """By `time.monotonic()`, when `restart_if_dead` starts a dead process again."""
        self.name = name
        self._start_child = start_child
        self._policy = policy
        self._delay = policy.first_delay
        self._started_at = 0.0

    def start(self) -> None:
        """Start the process."""
        self.child = self._start_child()
        self._started_at = time.monotonic()
        logger.info("%s started: process %d", self.name, self.child.pid)

    def restart_if_dead(self) -> None:
        """Start the process again if it has died and the delay has passed. Call this periodically.

        Raises CrashedAtStart as the policy says.
        """
        now = time.monotonic()
        if self.child is None:
            if now >= self.restart_at:
                self.start()
        elif (code := self.child.exit_code) is not None:
            uptime = now - self._started_at
            if code > 0 and uptime < self._policy.min_uptime:
                raise CrashedAtStart
            if uptime > self._policy.healthy:
                self._delay = self._policy.first_delay
            logger.warning("%s %s; restarting in %g s", self.name, describe_exit(code), self._delay)
            self._discard()
            self.restart_at = now + self._delay
            self._delay = min(2 * self._delay, self._policy.max_delay)

    def stop(self, seconds: float) -> None:
        """Send SIGTERM, and SIGKILL if the process is still there after so many seconds."""
        stop_all([self], seconds)

    def kill(self) -> None:
        """End the process immediately, if it runs."""
        if self.child is not None:
            self.child.kill()
            self.child.wait(None)
            self._discard()

    def _discard(self) -> None:
        if self.child is not None:
            self.child.close()
        self.child = None


def stop_all(processes: Iterable[SupervisedProcess[Any]], seconds: float) -> None:
    """Send SIGTERM to all, and SIGKILL to those that are still there after so many seconds."""
    running = [(process, child) for process in processes if (child := process.child) is not None]
    for _, child in running:
        child.terminate()
    deadline = time.monotonic() + seconds
    for process, child in running:
        if not child.wait(max(0.0, deadline - time.monotonic())):
            logger.warning("the %s did not stop within %g s and was killed", process.name, seconds)
        process.kill()


def describe_exit(code: int) -> str:
    """Such as “was killed by signal 9” or “exited with code 1”."""
    return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"


def python_path() -> str:
    """The PYTHONPATH by which a child finds this program's packages, from a checkout as well."""
    path = os.environ.get("PYTHONPATH")
    return f"{SOURCE_ROOT}{os.pathsep}{path}" if path else f"{SOURCE_ROOT}"
