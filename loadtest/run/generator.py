"""Locust as a process of its own: started on a run's folder, watched, and stopped in good order."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from loadtest.errors import Unreachable, Unusable, last_error_lines
from loadtest.run.folder import LOG, PLAN, START_INFO, STOP, UNREACHABLE, UNUSABLE
from loadtest.run.plan import Plan

PACKAGE = Path(__file__).parents[1]
GRACE_SECONDS = 25  # for requests under way, once it is to stop
WEB_PORT, MASTER_PORT = 8089, 5557


class Generator:
    """One run of Locust. `workers` are started elsewhere, `processes` here."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        host: str,
        *,
        processes: int = 1,
        workers: int = 0,
        web: bool = False,
    ) -> None:
        self._folder, self._host = folder, host
        self.web_url = f"http://127.0.0.1:{_port(WEB_PORT)}" if web else None
        (folder / PLAN).write_text(json.dumps(plan.to_json()))
        scenario = PACKAGE / "scenarios" / f"{plan.scenario.replace('-', '_')}.py"
        command: list[object] = [sys.executable, "-m", "locust"]
        command += [
            "-f",
            f"{scenario},{PACKAGE / 'users' / 'load_shape.py'}",
            "--host",
            host,
            "--folder",
            folder,
        ]
        command += ["--stop-timeout", GRACE_SECONDS, "--only-summary", "--exit-code-on-error", 0]
        command += ["--loglevel", "WARNING", "--headless"]
        if self.web_url:
            command[-1:] = ["--autostart", "--autoquit", 1, "--web-host", "127.0.0.1"]
            command += ["--web-port", self.web_url.rpartition(":")[2]]
        if workers:
            command += ["--master", "--expect-workers", workers]
        elif processes > 1:
            port = _port(MASTER_PORT)
            command += ["--processes", processes, "--master-bind-host", "127.0.0.1"]
            command += ["--master-bind-port", port, "--master-port", port]
        with (folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,  # never written to: it ends with this process, and so do they
                stdout=log,
                stderr=log,
                cwd=folder,  # Locust puts the working folder on the path of modules: an empty one
                env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
                start_new_session=True,  # Ctrl-C is for us
            )
        self.pid = self._process.pid

    def wait_begin(self) -> dict[str, Any]:
        """What the workers were told, once the fixtures exist and the clock runs.

        Raises Unreachable or Unusable if it does not come to that.
        """
        start_info = self._folder / START_INFO
        while not start_info.exists():
            self.check()
            if not self.running:
                raise Unusable(
                    f"Locust ended before it began; it said last: {self._last_log_lines()}"
                )
            time.sleep(0.05)
        found: dict[str, Any] = json.loads(start_info.read_text())
        return found

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raises Unreachable or Unusable if it has ended, and not in good order."""
        match self._process.poll():
            case None | 0:
                return
            case code if code == UNREACHABLE:
                raise Unreachable(f"{self._host} does not answer")
            case code if (
                code == UNUSABLE
            ):  # said by `Coordinator.prepare`, behind its logger's name
                raise Unusable(
                    self._last_log_lines().rpartition("loadtest.users.coordination: ")[2]
                )
            case code:
                raise Unusable(
                    f"Locust ended with exit code {code}; it said last: {self._last_log_lines()}"
                )

    def stop(self) -> None:
        """Ask it to end: nobody begins anything, what is under way is finished and written down."""
        (self._folder / STOP).touch()

    def kill(self) -> None:
        """End it and its processes at once, if they are still there."""
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_log_lines(self) -> str:
        return last_error_lines((self._folder / LOG).read_text(errors="replace"))


def _port(wanted: int) -> int:
    """That port of the loopback, or another one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise Unusable("there is no free port")
