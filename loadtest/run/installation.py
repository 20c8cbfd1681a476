"""A private installation for one run: `instachat up` on a home and a port of its own, gone afterwards.

Its standard input is a pipe that this process holds and never writes to: however this one ends, kill -9
included, the installation ends, too. Only its folder is left then.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import urllib3

from loadtest.errors import Unusable, last_error_lines

READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 40.0
PACKAGES = Path(__file__).parents[2]
_ENGINE_URLS = tuple(
    f"INSTACHAT_{name}_URL" for name in ("DATABASE", "REDIS", "HUEY", "ELASTICSEARCH")
)


class Installation:
    """One that runs."""

    def __init__(self, home: Path, host: str, process: "subprocess.Popen[bytes]") -> None:
        self.host = host
        self._home, self._process = home, process

    def processes(self) -> list[psutil.Process]:
        """`up` and the engines, which are no children of it but name its home."""
        found = [psutil.Process(self._process.pid)] if self._process.poll() is None else []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._home) in word for word in process.info["cmdline"] or ()):
                found.append(process)
        return found


@contextmanager
def private_installation() -> Iterator[Installation]:
    """Start it, wait until it is ready, and end it. Raises Unusable, with what it said, if it isn't."""
    home = Path(tempfile.mkdtemp(prefix="instachat-load-"))
    if os.geteuid() == 0:
        home.chmod(0o711)  # as root the engines run as another user, who must pass through
    environment = {k: v for k, v in os.environ.items() if k not in _ENGINE_URLS}
    try:
        with _running_command("up", environment | {"INSTACHAT_HOME": str(home)}, home) as (
            host,
            process,
        ):
            yield Installation(home, host, process)
    finally:
        _remove(home)


@contextmanager
def api_server() -> Iterator[str]:
    """The HTTP API alone, on this process's settings; gives its address."""
    with (
        tempfile.TemporaryDirectory(prefix="instachat-load-") as folder,
        _running_command("serve", dict(os.environ), Path(folder)) as (host, _),
    ):
        yield host


@contextmanager
def _running_command(
    command: str, environment: dict[str, str], folder: Path
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """`instachat COMMAND` on a port of its own, ready; it is ended with the context."""
    port = _free_port()
    host, log_path = f"http://127.0.0.1:{port}", folder / "output.log"
    environment = environment | {
        "INSTACHAT_APP_CREATION_LIMIT": "off",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")])),
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            # -P: the working folder, which may be anybody's, holds no modules of ours.
            [
                *(sys.executable, "-P", "-m", "instachat_cli", command),
                *("--host", "127.0.0.1", "--port", str(port), "--until-input-ends"),
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; it is ended when the audit is done
        )
    try:
        _wait_ready(command, host, process, log_path)
        yield host, process
    finally:
        _terminate(process)


def _wait_ready(
    command: str, host: str, process: "subprocess.Popen[bytes]", log_path: Path
) -> None:
    pool = urllib3.PoolManager(retries=False, timeout=2.0)
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if pool.request("GET", f"{host}/readyz").status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.05)
    last_lines = last_error_lines(log_path.read_text(errors="replace"))
    raise Unusable(f"`instachat {command}` did not become ready; it said last: {last_lines}")


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        break
    assert process.stdin
    process.stdin.close()  # only now: its end asks once more


def _remove(home: Path) -> None:
    for _ in range(100):  # an engine may still be writing its last files
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
