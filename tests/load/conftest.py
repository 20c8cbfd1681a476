"""The small server, and the program as its users have it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class FinishedCommand(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


@pytest.fixture
def start_server() -> Iterator[Callable[..., str]]:
    """Starts a server with these faults; returns its address. It ends with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> str:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.load_target", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(server)
        assert server.stdout
        return f"http://127.0.0.1:{int(server.stdout.readline())}"

    yield start
    for server in running:
        server.communicate()  # ends its input, and so it


def start_bench(*words: object, **environment: str) -> "subprocess.Popen[str]":
    """`instachat bench …`, on none of this environment's settings but those given."""
    return subprocess.Popen(
        [sys.executable, "-m", "instachat_cli", "bench", *map(str, words)],
        env={k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
        | {"PYTHONPATH": str(ROOT)}
        | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts us in the background has Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def finish(process: "subprocess.Popen[str]") -> FinishedCommand:
    """Wait for its end; no command may ever show a traceback."""
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # the load ends, too
        raise
    assert "Traceback" not in err, err
    return FinishedCommand(process.returncode, out, err)


def run_bench(*words: object) -> FinishedCommand:
    """Run `instachat bench …` to its end."""
    return finish(start_bench(*words))
