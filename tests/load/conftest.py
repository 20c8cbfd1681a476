"""Starts the small server, and the program as a command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class FinishedCommand(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, parsed."""
        return json.loads(self.out)


@pytest.fixture
def start_server() -> Iterator[Callable[..., str]]:
    """Starts a server with the given faults and returns its address; the server ends with the test."""
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
        server.communicate()  # closes its input, which ends it


def start_bench(*words: object, **environment: str) -> "subprocess.Popen[str]":
    """Start `instachat bench …` without the INSTACHAT_ settings of this environment, plus the given ones."""
    return subprocess.Popen(
        [sys.executable, "-m", "instachat_cli", "bench", *map(str, words)],
        env={k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
        | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell ignores SIGINT in background processes, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def wait_for_progress(process: "subprocess.Popen[str]") -> None:
    """Wait for the first line of its progress, which shows that Locust runs."""
    assert process.stderr
    lines = []
    while " s  " not in (line := process.stderr.readline()):
        lines.append(line)
        assert process.poll() is None, "".join(lines) + process.stderr.read()


def finish(process: "subprocess.Popen[str]") -> FinishedCommand:
    """Wait for its end, and check that it printed no traceback.

    A process that does not end is aborted, which ends the load as well, and shows what it waited for.
    """
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.send_signal(signal.SIGABRT)
        error.add_note(process.communicate()[1])
        raise
    assert "Traceback" not in err, err
    return FinishedCommand(process.returncode, out, err)


def run_bench(*words: object) -> FinishedCommand:
    """Run `instachat bench …` and wait for its end."""
    return finish(start_bench(*words))


def mentions(process: psutil.Process, folder: Path) -> bool:
    """Whether the command line of a process, listed with its `cmdline`, names a folder."""
    return any(str(folder) in word for word in process.info["cmdline"] or ())
