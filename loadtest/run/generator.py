"""The load generator: Locust in a child process, started on a run's folder, watched, and stopped."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.adapter.adapter import ServerAdapter
from loadtest.corpus.preload import Preload
from loadtest.errors import Unreachable, Unusable
from loadtest.run.folder import (
    ADAPTER,
    LOG,
    PLAN,
    PRELOAD,
    START_INFO,
    STOP,
    UNREACHABLE,
    UNUSABLE,
)
from loadtest.run.plan import Plan
from loadtest.run.processes import ChildProcess, free_port

PACKAGE = Path(__file__).parents[1]
POLL_SECONDS = 0.05
GRACE_SECONDS = 45  # that requests under way, and followers, have to finish after a stop
WEB_PORT = 8089


class Generator:
    """One run of Locust. It starts `processes` itself, or waits for `workers` that are started elsewhere."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        host: str,
        adapter: ServerAdapter,
        *,
        processes: int = 1,
        workers: int = 0,
        web: bool = False,
        preload: Preload,
    ) -> None:
        self._folder, self._host = folder, host
        self.web_url = f"http://127.0.0.1:{free_port(WEB_PORT)}" if web else None
        (folder / PLAN).write_text(json.dumps(plan.to_json()))
        (folder / ADAPTER).write_text(json.dumps(adapter.data))
        (folder / PRELOAD).write_text(json.dumps(asdict(preload)))
        self._process = ChildProcess(
            locust_command(plan, host, folder, processes, workers, self.web_url),
            folder / LOG,
            os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
            cwd=folder,  # Locust adds the working folder to the module path; this one has no modules
        )
        self.pid = self._process.pid

    def wait_begin(self) -> dict[str, Any]:
        """Wait until the fixtures exist and the clock runs; returns what the workers received.

        Raises Unreachable or Unusable if Locust ends first.
        """
        start_info = self._folder / START_INFO
        while not start_info.exists():
            self.check()
            if not self.running:
                raise Unusable(
                    f"Locust ended before the run began; its last output: {self._process.last_lines()}"
                )
            time.sleep(POLL_SECONDS)
        found: dict[str, Any] = json.loads(start_info.read_text())
        return found

    @property
    def running(self) -> bool:
        """Whether Locust has not ended yet."""
        return self._process.running

    def check(self) -> None:
        """Raises Unreachable or Unusable if Locust has failed."""
        match self._process.exit_code:
            case None | 0:
                return
            case code if code == UNREACHABLE:
                raise Unreachable(f"{self._host} does not answer")
            case code if code == UNUSABLE:
                # `Coordinator.prepare` has logged the reason, after its logger's name.
                logged = self._process.last_lines()
                raise Unusable(logged.rpartition("loadtest.users.coordination: ")[2])
            case code:
                raise Unusable(
                    f"Locust ended with exit code {code}; its last output: {self._process.last_lines()}"
                )

    def stop(self) -> None:
        """Ask Locust to end: no user starts a request, and requests under way are finished and recorded."""
        (self._folder / STOP).touch()

    def kill(self) -> None:
        """End Locust and its processes at once; does nothing if they have ended."""
        self._process.kill()


def locust_command(
    plan: Plan, host: str, folder: Path, processes: int, workers: int, web_url: str | None
) -> list[object]:
    """The command that starts Locust; several processes meet on a port that no other run has."""
    scenario = PACKAGE / "scenarios" / f"{plan.scenario.replace('-', '_')}.py"
    shape = PACKAGE / "users" / "load_shape.py"
    words: list[object] = [sys.executable, "-m", "locust", "-f", f"{scenario},{shape}"]
    words += ["--host", host, "--folder", folder, "--loglevel", "WARNING"]
    words += ["--stop-timeout", GRACE_SECONDS, "--only-summary", "--exit-code-on-error", 0]
    if web_url:
        words += ["--autostart", "--autoquit", 1, "--web-host", "127.0.0.1"]
        words += ["--web-port", web_url.rpartition(":")[2]]
    else:
        words += ["--headless"]
    if workers:
        words += ["--master", "--expect-workers", workers]
    elif processes > 1:
        # Not Locust's default: of two runs that start at once, one's workers would join the other's master.
        port = free_port()
        words += ["--processes", processes, "--master-bind-host", "127.0.0.1"]
        words += ["--master-bind-port", port, "--master-port", port]
    return words
