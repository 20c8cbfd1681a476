"""How much memory a command takes."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
from pydantic import SecretStr

from backend.domain.errors import Failed
from instachat_cli.bench.harness.environment import Environment

POLL_SECONDS = 0.01


def peak_memory(env: Environment, *words: str) -> float:
    """The most memory, in MiB, that a command on this ground has at any moment at which it is looked at.

    What `wait4` tells would not do: it counts the memory of who started the process, too.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    for name, value in env.backend.settings.model_dump(exclude_unset=True).items():
        if value is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            variables[f"INSTACHAT_{name.upper()}"] = str(text)
    process = psutil.Popen(
        [sys.executable, "-m", "instachat_cli", *words],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            peak = max(peak, process.memory_info().rss)
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise Failed(f"`instachat {' '.join(words)}` ended with {process.returncode}")
    return peak / 2**20
