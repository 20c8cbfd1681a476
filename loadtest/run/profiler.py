"""Samples where the server and the worker spend their time, by py-spy, which reads their memory from outside.

It samples the threads that hold Python's lock: where Python ran, not where a thread waited for another
program. It needs the right to trace another process (ptrace): root, or on many systems a setting. If it can't
attach, the run goes on without a profile, and says why.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import Unusable
from loadtest.report.result import Profile, Window
from loadtest.run.faults import FindProcesses, Target
from loadtest.run.processes import ChildProcess
from loadtest.run.stacks import frames

SAMPLES_PER_SECOND = 100
PROFILED = (Target.SERVER, Target.WORKER)
END_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class _Recording:
    """A profiler that is attached to a process and its children."""

    target: Target
    process: ChildProcess
    file: Path
    began: float  # by time.monotonic()


class Profiler:
    """Profiles the targets in the window of a run, in a thread, until `stop`."""

    def __init__(
        self,
        targets: Iterable[Target],
        find: FindProcesses,
        folder: Path,
        window: Window,
        begin: float,
        on_problem: Callable[[str], object],
    ) -> None:
        self._targets, self._find = targets, find
        self._folder, self._window = folder, window
        self._begin, self._on_problem = begin, on_problem
        self._stop = threading.Event()
        self._recordings: list[_Recording] = []
        self.profiles: list[Profile] = []
        self.problems: list[str] = []
        """Why a process has no profile, in words."""
        self._thread = threading.Thread(target=self._run, name="profiler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the profilers and read what they have sampled."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self._stop.wait(max(self._begin + self._window.from_s - time.monotonic(), 0)):
            return
        self._recordings = [made for target in self._targets if (made := self._record(target))]
        self._stop.wait(max(self._begin + self._window.to_s - time.monotonic(), 0))
        for recording in self._recordings:
            self._finish(recording)

    def _record(self, target: Target) -> _Recording | None:
        processes = self._find(target)
        if not processes:
            return None
        file = self._folder / f"profile-{target}.txt"
        command = [profiler_program(), "record", "--pid", processes[0].pid, "--output", file]
        options = [
            "--subprocesses",
            "--gil",
            "--function",
            "--format",
            "raw",
            "--rate",
            SAMPLES_PER_SECOND,
        ]
        log = self._folder / f"profile-{target}.log"
        return _Recording(
            target, ChildProcess([*command, *options], log, os.environ), file, time.monotonic()
        )

    def _finish(self, recording: _Recording) -> None:
        seconds = time.monotonic() - recording.began
        recording.process.interrupt(END_TIMEOUT_SECONDS)
        text = recording.file.read_text(errors="replace") if recording.file.exists() else ""
        if found := frames(text):
            self.profiles.append(
                Profile(
                    of=recording.target,
                    seconds=round(seconds, 2),
                    rate=SAMPLES_PER_SECOND,
                    samples=found[0].samples,
                    frames=found,
                )
            )
        else:
            why = f"there is no profile of the {recording.target}: {recording.process.last_lines()}"
            self.problems.append(why)
            self._on_problem(why)


def profiler_program() -> Path:
    """py-spy, beside this Python. Raises Unusable if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = beside if beside.exists() else shutil.which("py-spy")
    if not found:
        raise Unusable("--profile-server needs py-spy, of the extra `bench`")
    return Path(found)
