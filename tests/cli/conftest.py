"""The command line as users run it: a process with its environment and its three streams."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.bootstrap import Backend, open_backend
from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import free_port
from tests.support.fork_server import (
    Captured,
    ForkedProcess,
    ForkServer,
    Result,
    checked,
    start_module,
)
from tests.support.fork_server import fork_server as fork_server_of_tests
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
MAX_PARALLEL = 3  # processes at the same time
MEBIBYTE = 1024  # in KiB, the unit of `Cli.peak_memory`

# The peak of a process includes the memory of its parent at the time of the fork, so the parent is small.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


class Cli:
    """Runs `instachat` with an environment of its own, in a process of its own.

    Loading the modules takes most of a command's time; so a process that has loaded them all forks one for
    each command (see `fork_server`). `run_process` starts one from nothing, `start` likewise without waiting.
    """

    def __init__(self, fork_server: ForkServer, **settings: object) -> None:
        outside = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
        inside = {f"INSTACHAT_{k.upper()}": str(v) for k, v in settings.items() if v is not None}
        fixed = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        self.env = outside | fixed | {"INSTACHAT_PORT": str(free_port())} | inside
        for unwanted in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            self.env.pop(unwanted, None)
        self.fork_server = fork_server

    def __call__(
        self, *words: object, stdin: str | bytes = b"", env: dict[str, str] | None = None
    ) -> Result:
        """Run a command to its end; fails if it shows a traceback."""
        return self._start(words, stdin, env).result()

    def run_all(self, commands: Sequence[Sequence[object]]) -> list[Result]:
        """Run independent commands, several in parallel; returns their results in order."""
        results: list[Result] = []
        running: deque[Captured] = deque()
        for words in commands:
            if len(running) == MAX_PARALLEL:
                results.append(running.popleft().result())
            running.append(self._start(words, b"", None))
        return results + [captured.result() for captured in running]

    def peak_memory(self, *words: object, stdin: Iterable[bytes] = ()) -> int:
        """The peak memory, in KiB, of a command in a new interpreter."""
        with subprocess.Popen(
            [sys.executable, "-c", _MEASURE, *command_line(words)],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as measuring:
            assert measuring.stdin
            assert measuring.stdout
            measuring.stdin.writelines(stdin)
            measuring.stdin.close()
            peak = int(measuring.stdout.read())
        assert measuring.returncode == 0, words
        return peak

    def run_process(
        self, *words: object, stdin: str | bytes = b"", env: dict[str, str] | None = None
    ) -> Result:
        """Run a command as a new process, with pipes, from its very beginning."""
        done = subprocess.run(
            command_line(words),
            check=False,
            env=self.env | (env or {}),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )
        return checked(done.returncode, done.stdout, done.stderr)

    def start(self, *words: object, **options: Any) -> "subprocess.Popen[bytes]":
        """Start a new process; the test ends it."""
        return subprocess.Popen(command_line(words), env=self.env, **options)

    def start_worker(self) -> ForkedProcess:
        """Start a worker that has loaded the program already; the test ends it."""
        return start_module(
            "instachat_cli", "worker", environment=self.env, stderr=subprocess.DEVNULL
        )

    def _start(
        self, words: Sequence[object], stdin: str | bytes, env: dict[str, str] | None
    ) -> Captured:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        return self.fork_server.capture(to_arguments(words), self.env | (env or {}), data)


def to_arguments(words: Sequence[object]) -> list[str]:
    """The arguments as the program receives them."""
    return [w.decode(errors="surrogateescape") if isinstance(w, bytes) else str(w) for w in words]


def command_line(words: Sequence[object]) -> list[str]:
    """The command line of a command."""
    return [sys.executable, "-m", "instachat_cli", *to_arguments(words)]


class Terminal:
    """A command on a terminal, by default of 80 columns."""

    def __init__(self, cli: Cli, *words: object, columns: int = 80) -> None:
        self._fd, terminal_end = pty.openpty()
        fcntl.ioctl(terminal_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        modes = termios.tcgetattr(terminal_end)
        modes[3] |= termios.NOFLSH  # Ctrl-C does not discard output that has not been read
        termios.tcsetattr(terminal_end, termios.TCSANOW, modes)
        self._process = cli.fork_server.fork(
            to_arguments(words), cli.env, (terminal_end, terminal_end, terminal_end)
        )
        os.close(terminal_end)
        self.shown = ""

    def wait_for_text(self, text: str) -> None:
        """Read until the terminal has shown the text."""
        self.wait_until_shown(lambda shown: text in shown, repr(text))

    def wait_until_shown(self, is_shown: Callable[[str], bool], what: str = "it") -> None:
        """Read until what the terminal has shown is as wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_shown(self.shown):
            more = self._read(0.1) and time.monotonic() < deadline
            assert more or is_shown(self.shown), f"{what} was not shown:\n{self.shown}"

    def type(self, text: str) -> None:
        """Type the text on the keyboard."""
        os.write(self._fd, text.encode())

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._read(0.1) and time.monotonic() < deadline:
            pass
        os.close(self._fd)
        assert "Traceback" not in self.shown
        assert "bug in InstaChat" not in self.shown, self.shown
        return self._process.wait(PATIENCE_SECONDS)

    def _read(self, seconds: float) -> bool:
        """Read what is available; returns whether there may be more."""
        if select.select([self._fd], [], [], seconds)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the other end is closed
                return False
            self.shown += data.decode(errors="replace")
            return bool(data)
        return self._process.poll() is None


@pytest.fixture
def installation(engines: Engines) -> Iterator[Settings]:
    """An empty installation for one test."""
    settings = engines.installation()
    yield settings
    engines.drop_database(settings)


@pytest.fixture(scope="session")
def fork_server() -> ForkServer:
    """The process that forks one for each command."""
    return fork_server_of_tests()


@pytest.fixture
def cli(installation: Settings, fork_server: ForkServer) -> Cli:
    """The program on that installation."""
    return Cli(
        fork_server, database_url=installation.database_url, redis_url=installation.redis_url
    )


@pytest.fixture
def core(installation: Settings) -> Iterator[Backend]:
    """The core of that installation, to prepare and inspect data without starting a process."""
    with open_backend(installation) as core:
        yield core


@pytest.fixture
def token(core: Backend) -> str:
    """A new application's token."""
    return core.catalog.applications.create("test").token


@pytest.fixture
def drain_application(core: Backend) -> Callable[[str], None]:
    """A function that stores everything accepted for the application of a token."""

    def store(token: str) -> None:
        core.drainer.drain(core.counters.shard(token))

    return store


@pytest.fixture
def chat(core: Backend, token: str, drain_application: Callable[[str], None]) -> int:
    """The number of a stored chat of that application."""
    from backend.ingest.requests import AcceptRequest

    number = core.acceptor.accept(AcceptRequest.chats(token)).first
    drain_application(token)
    return number


@pytest.fixture
def worker(cli: Cli, core: Backend) -> Iterator[ForkedProcess]:
    """A running worker."""
    process = cli.start_worker()
    wait_until(lambda: core.workers.count() == 1)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_SECONDS)
