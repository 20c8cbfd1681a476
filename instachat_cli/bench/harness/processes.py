"""The child processes of benchmarks: servers, workers, consumers and measured commands."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from backend.domain.errors import Failed
from backend.runtime.processes import CommandChild
from backend.settings import PREFIX, Settings, as_environment

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0


@contextmanager
def child_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command; it is ended with the context.

    It leads a session of its own, so that Ctrl-C in the terminal reaches only this process. Its standard
    input is a pipe that is never written to and is closed at the end. A process that does not end by the
    closed pipe and SIGTERM within STOP_TIMEOUT_SECONDS is killed.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    child = CommandChild(process)
    try:
        yield process
    finally:
        child.close()
        child.terminate()
        if not child.wait(STOP_TIMEOUT_SECONDS):
            child.kill()
            child.wait(None)
        if process.stdout:
            process.stdout.close()


def wait_ready(
    process: "subprocess.Popen[bytes]", is_ready: Callable[[], object], name: str, pause: float
) -> None:
    """Wait until a process is ready. Raises Failed if it ends first or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"{name} did not start")
        time.sleep(pause)


def settings_environment(settings: Settings) -> dict[str, str]:
    """This process's environment with exactly these settings: no other INSTACHAT_ variable is passed on."""
    others = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return others | as_environment(settings)
