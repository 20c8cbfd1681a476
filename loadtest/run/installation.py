"""Private servers for one run: `instachat up` on a temporary folder and a free port, or `instachat serve`.

They end with this process, even if that is killed by `kill -9`; only the temporary folder is left then.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import urllib3

from loadtest.errors import Unusable
from loadtest.polling import wait_until
from loadtest.run.processes import ChildProcess, free_port

READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 40.0
REMOVE_TIMEOUT_SECONDS = 10.0
PACKAGES = Path(__file__).parents[2]
_ENGINE_URLS = tuple(
    f"INSTACHAT_{name}_URL" for name in ("DATABASE", "REDIS", "HUEY", "ELASTICSEARCH")
)


class PrivateInstallation:
    """A running `instachat up`."""

    def __init__(self, home: Path, host: str, up: ChildProcess) -> None:
        self.host = host
        self._home, self._up = home, up

    def processes(self) -> list[psutil.Process]:
        """`up` and the engines. The engines are not its children; their command lines name its home."""
        found = [psutil.Process(self._up.pid)] if self._up.running else []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._home) in word for word in process.info["cmdline"] or ()):
                found.append(process)
        return found


@contextmanager
def private_installation() -> Iterator[PrivateInstallation]:
    """An installation that is ready, on engines of its own; it is ended and deleted with the context.

    Raises Unusable, with its last output, if it does not become ready.
    """
    home = Path(tempfile.mkdtemp(prefix="instachat-load-"))
    if os.geteuid() == 0:
        home.chmod(0o711)  # root runs the engines as another user, which must be able to enter
    environment = {k: v for k, v in os.environ.items() if k not in _ENGINE_URLS}
    try:
        with _running_command("up", environment | {"INSTACHAT_HOME": str(home)}, home) as command:
            host, process = command
            yield PrivateInstallation(home, host, process)
    finally:
        _remove(home)


@contextmanager
def api_server() -> Iterator[str]:
    """The HTTP API alone, on this process's settings; yields its address."""
    with (
        tempfile.TemporaryDirectory(prefix="instachat-load-") as folder,
        _running_command("serve", dict(os.environ), Path(folder)) as (host, _),
    ):
        yield host


@contextmanager
def _running_command(
    command: str, environment: dict[str, str], folder: Path
) -> Iterator[tuple[str, ChildProcess]]:
    """`instachat COMMAND` on a free port: its address and its process, once it is ready."""
    port = free_port()
    host = f"http://127.0.0.1:{port}"
    process = ChildProcess(
        # -P keeps modules in the working folder, which may be anyone's, from being imported.
        [
            *(sys.executable, "-P", "-m", "instachat_cli", command),
            *("--host", "127.0.0.1", "--port", port, "--until-input-ends"),
        ],
        folder / "output.log",
        environment
        | {
            "INSTACHAT_APP_CREATION_LIMIT": "off",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")])
            ),
        },
    )
    try:
        _wait_ready(command, host, process)
        yield host, process
    finally:
        process.terminate(STOP_TIMEOUT_SECONDS)


def _wait_ready(command: str, host: str, process: ChildProcess) -> None:
    pool = urllib3.PoolManager(retries=False, timeout=2.0)

    def is_ready() -> bool:
        try:
            return pool.request("GET", f"{host}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    wait_until(lambda: not process.running or is_ready(), deadline, pause=0.05)
    if not (process.running and is_ready()):
        raise Unusable(
            f"`instachat {command}` did not become ready; its last output: {process.last_lines()}"
        )


def _remove(home: Path) -> None:
    def removed() -> bool:
        shutil.rmtree(home, ignore_errors=True)
        return not home.exists()

    # An engine that is ending may still write its last files.
    wait_until(removed, time.monotonic() + REMOVE_TIMEOUT_SECONDS, pause=0.1)
