"""Measures how much memory a command uses."""

import sys
import time
from contextlib import suppress

import psutil

from backend.domain.errors import Failed
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.processes import child_process, settings_environment

POLL_SECONDS = 0.01


def peak_memory(env: Environment, *words: str) -> float:
    """The highest resident memory of `instachat WORDS` on these engines, in MiB, sampled while it runs.

    `wait4` does not report it: its maximum includes the memory of the parent process before the exec.
    Raises Failed if the command fails.
    """
    command = [sys.executable, "-m", "instachat_cli", *words]
    peak = 0
    with child_process(command, settings_environment(env.backend.settings)) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, process.memory_info().rss)
            time.sleep(POLL_SECONDS)
    if child.returncode:
        raise Failed(f"`instachat {' '.join(words)}` exited with code {child.returncode}")
    return peak / 2**20
