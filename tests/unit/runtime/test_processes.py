"""Supervised processes: when they are restarted, and how they are stopped."""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from backend.runtime.processes import (
    Child,
    CommandChild,
    CrashedAtStart,
    PythonChild,
    RestartPolicy,
    SupervisedProcess,
    describe_exit,
    stop_all,
)

POLICY = RestartPolicy(first_delay=0.05, max_delay=0.1, healthy=60.0)
IGNORE_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print(flush=True); time.sleep(60)"
)


def command(source: str) -> CommandChild:
    """A child that prints a line and then runs this Python source."""
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return CommandChild(process)


def sleeper() -> CommandChild:
    """A child that runs until it is told to stop."""
    return command("import time; print(flush=True); time.sleep(60)")


def python_sleeper() -> PythonChild:
    """The same as a `multiprocessing` child."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    return PythonChild(process)


@pytest.mark.parametrize("start", [sleeper, python_sleeper])
def test_a_killed_process_is_restarted_after_a_growing_delay(start: Callable[[], Child]) -> None:
    """The delay doubles up to the policy's maximum."""
    supervised = SupervisedProcess("test process", start, POLICY)
    supervised.start()
    delays = []
    for _ in range(3):
        child = supervised.child
        assert child is not None
        child.kill()
        assert child.wait(10)
        died_at = time.monotonic()
        supervised.restart_if_dead()
        assert supervised.child is None
        delays.append(supervised.restart_at - died_at)
        while supervised.child is None:
            supervised.restart_if_dead()
        assert time.monotonic() >= supervised.restart_at
    assert delays == pytest.approx([0.05, 0.1, 0.1], abs=0.03)
    supervised.kill()
    assert supervised.child is None


def test_an_error_at_the_start_is_not_restarted() -> None:
    """This applies if the policy has a minimum uptime."""
    policy = POLICY._replace(min_uptime=10.0)
    supervised = SupervisedProcess("test process", lambda: command("exit(3)"), policy)
    supervised.start()
    assert supervised.child is not None
    assert supervised.child.wait(10)
    with pytest.raises(CrashedAtStart):
        supervised.restart_if_dead()


def test_processes_that_ignore_sigterm_are_killed_after_one_common_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is named in the log; a process that is not running does no harm."""
    stubborn = [
        SupervisedProcess(f"process {n}", lambda: command(IGNORE_SIGTERM), POLICY) for n in (1, 2)
    ]
    for process in stubborn:
        process.start()
    started_at = time.monotonic()
    stop_all([*stubborn, SupervisedProcess("idle", sleeper, POLICY)], 0.5)
    assert 0.4 < time.monotonic() - started_at < 5
    assert [process.child for process in stubborn] == [None, None]
    assert "the process 1 did not stop within 0.5 s and was killed" in caplog.text
    assert "the process 2 did not stop within 0.5 s and was killed" in caplog.text


def test_exits_are_described() -> None:
    """By signal or by exit code."""
    assert describe_exit(-signal.SIGKILL) == "was killed by signal 9"
    assert describe_exit(1) == "exited with code 1"
