"""`instachat up` and `instachat worker`: start, stop, and failures in between."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from backend.bootstrap import Backend
from backend.settings import Settings
from backend.storage.postgres.schema import SCHEMA, raise_compatible_since
from tests.cli.conftest import Cli, Terminal
from tests.conftest import Engines
from tests.support.engines import free_port, scratch_folder
from tests.support.fork_server import ForkedProcess, ForkServer
from tests.support.waiting import PATIENCE_SECONDS, promised, wait_until


class Up:
    """A running `up`, with its standard error in a file."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self.process = cli.start("up", stderr=said, stdin=subprocess.DEVNULL)

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return self._said.read_text()

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers it has started, oldest first."""
        return [int(pid) for pid in re.findall(r"worker started: process (\d+)", self.said)]

    def ready(self) -> "Up":
        """Wait until it reports `ready`."""
        wait_until(lambda: "ready" in self.said or self.process.poll() is not None)
        assert "ready" in self.said, self.said
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[[Cli], Up]]:
    """Starts `up` processes, which end with the test."""
    started: list[Up] = []

    def start(cli: Cli) -> Up:
        started.append(Up(cli, tmp_path))
        return started[-1].ready()

    yield start
    for up in started:
        up.process.kill()  # its worker ends by itself then
        up.process.wait()


@pytest.fixture
def empty(engines: Engines, fork_server: ForkServer) -> Cli:
    """The program on a database without tables and an empty Redis."""
    return Cli(
        fork_server, database_url=engines.bare_database(), redis_url=engines.redis_database()
    )


@pytest.fixture
def private(fork_server: ForkServer) -> Iterator[Cli]:
    """The program without URLs, on a new home."""
    home = scratch_folder("up")
    yield Cli(fork_server, home=home)
    wait_until(lambda: not _processes_of(home))
    subprocess.run(["rm", "-rf", home], check=True)


def test_up_starts_private_engines_that_end_with_it(
    private: Cli, start_up: Callable[[Cli], Up]
) -> None:
    """Commands in another terminal use its engines and its worker. kill -9 of `up` ends all of them."""
    up = start_up(private)
    home = Path(private.env["INSTACHAT_HOME"])
    assert str(home) in up.said
    assert "migrated from nothing to" not in up.said  # one line says it
    assert re.search(rf"schema +{SCHEMA}, migrated from nothing", up.said)
    token = private("apps", "create", "first").json["token"]
    made = private("chats", "create", token, "--wait", "stored")
    assert (made.json, made.err) == ({"number": 1}, "")
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not psutil.pid_exists(up.workers[-1]))
    wait_until(lambda: not _processes_of(home))
    assert private("chats", "list", token).lines[0]["number"] == 1


def test_up_on_existing_engines_migrates_drains_and_exits_with_0(
    empty: Cli, start_up: Callable[[Cli], Up]
) -> None:
    """It restarts a killed worker. At SIGTERM it stores accepted messages and stops everything."""
    up = start_up(empty)
    token = empty("apps", "create", "x").json["token"]
    first = up.workers[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(up.workers) == 2)
    assert "by signal 9" in up.said
    empty("chats", "create", token, "--count", 5_000)
    with promised(10):
        assert up.stop() == 0
    assert not psutil.pid_exists(up.workers[-1])
    assert "everything accepted is stored" in up.said
    assert empty("status").json["not_stored"] == 0
    assert len(empty("chats", "list", token).lines) == 5_000


def test_ctrl_c_stops_up_after_everything_is_stored(cli: Cli) -> None:
    """A terminal sends Ctrl-C to its process group, which the worker is not in, so `up` decides the order."""
    terminal = Terminal(cli, "up")
    terminal.wait_for_text("ready")
    terminal.type("\x03")
    assert terminal.end() == 0
    assert "everything accepted is stored" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_a_second_signal_stops_up_immediately(cli: Cli, start_up: Callable[[Cli], Up]) -> None:
    """The exit code is 130, and no worker is left, even if it hangs."""
    up = start_up(cli)
    os.kill(up.workers[-1], signal.SIGSTOP)
    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in up.said)
    assert up.stop(signal.SIGINT) == 130
    assert not psutil.pid_exists(up.workers[-1])
    assert "error: " in up.said


def test_up_reports_an_unreachable_engine(cli: Cli) -> None:
    """It starts nothing and exits with 5."""
    for name, scheme in (("DATABASE", "postgresql"), ("REDIS", "redis")):
        url = f"{scheme}://127.0.0.1:{free_port()}/0"
        failed = cli("up", env={f"INSTACHAT_{name}_URL": url})
        assert failed.code == 5
        assert f"INSTACHAT_{name}_URL" in failed.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_exits_with_0_at_a_signal(
    worker: ForkedProcess, core: Backend, number: int
) -> None:
    """It no longer counts as running."""
    worker.send_signal(number)
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert core.workers.count() == 0


def test_a_worker_exits_with_0_at_a_signal_during_its_start(cli: Cli) -> None:
    """The signal may come during imports or while connecting."""
    for moment in (0, 0.1, 0.3, 0.6):
        process = cli.start_worker()
        wait_until(partial(_catches_sigterm, process.pid))
        time.sleep(moment)
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_up_and_an_idle_worker_end_when_the_database_admits_newer_programs_only(
    cli: Cli, core: Backend, worker: ForkedProcess, start_up: Callable[[Cli], Up]
) -> None:
    """They exit with 5 and say what to do, though nothing has failed yet."""
    up = start_up(cli)
    with core.database.begin() as tx:
        raise_compatible_since(tx, "9999")
    assert worker.wait(PATIENCE_SECONDS) == 5
    assert up.process.wait(PATIENCE_SECONDS) == 5
    assert "hint: run a newer instachat" in up.said


def test_a_worker_that_starts_without_engines_exits_with_5(cli: Cli) -> None:
    """Once it has started, it retries instead."""
    url = f"postgresql://127.0.0.1:{free_port()}/x"
    assert cli("worker", env={"INSTACHAT_DATABASE_URL": url}).code == 5


def test_up_and_worker_ignore_modules_in_the_working_folder(
    installation: Settings, fork_server: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text("raise RuntimeError('not ours')")
    (tmp_path / "instachat_cli.py").write_text("raise RuntimeError('not ours')")
    cli = Cli(fork_server, database_url=installation.database_url, redis_url=installation.redis_url)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "instachat_cli", "up"],
        env=cli.env,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    assert process.stderr
    said = b""
    while b"ready" not in said:
        line = process.stderr.readline()
        assert line, said.decode()
        said += line
    assert b"ended" not in said
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 0


def _processes_of(home: Path) -> list[psutil.Process]:
    """The processes that name a home: the engines and their supervisors."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(home) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def _catches_sigterm(pid: int) -> bool:
    """Whether a process has installed a handler for SIGTERM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False
