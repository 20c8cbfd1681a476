"""A process that has imported the whole program and forks every process that a test starts.

Imports take most of the processor time of a short command, and half a second of the start of a server, a
worker or a writer. A fork does not repeat them. `capture` and `fork` run a command of `instachat`;
`start_module` runs a module like `python -m`. Each process receives its arguments, environment and streams,
leads its own session, can be sent any signal, and is killed when the tests end.

Tests of imports, of memory or of the entry point start a new interpreter instead.
"""

import atexit
import ctypes  # noqa: F401  # die_with_parent needs it
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.support.engines import die_with_parent
from tests.support.program_logs import program_logs

MAX_REQUEST_BYTES = 1 << 20
TIMEOUT_SECONDS = 120  # for one command


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output, as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """Standard error as one JSON object, which `-o json` promises."""
        assert len(self.err.splitlines()) == 1, self.err
        return json.loads(self.err)


def checked(code: int, out: bytes, err: bytes) -> Result:
    """The result of a command; fails if it shows a traceback."""
    assert b"Traceback" not in err, err.decode()
    return Result(code, out.decode(), err.decode())


class ForkedProcess:
    """A running process, with the interface of `subprocess.Popen`."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        self.name = name
        self.pid = int(_receive(connection))
        self.returncode: int | None = None
        """None while it runs; negative if a signal killed it."""
        self._connection = connection

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns its exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(_receive(self._connection))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.name, timeout or 0) from None
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM, if it runs."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL, if it runs."""
        self.send_signal(signal.SIGKILL)


class Captured:
    """A running command whose output is captured."""

    def __init__(self, process: ForkedProcess, out: IO[bytes], err: IO[bytes]) -> None:
        self.process = process
        self._out = out
        self._err = err

    def result(self) -> Result:
        """Wait for its end."""
        with self._out, self._err:
            code = self.process.wait(TIMEOUT_SECONDS)
            self._out.seek(0)
            self._err.seek(0)
            return checked(code, self._out.read(), self._err.read())


class ForkServer:
    """The client, in the test's process."""

    def __init__(self) -> None:
        self._socket, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(child_end.fileno())],
            pass_fds=[child_end.fileno()],
        )
        child_end.close()

    def capture(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        stdin: bytes = b"",
        module: str = "",
    ) -> Captured:
        """Run a command or a module on this input and capture its output."""
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  # closed by result
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            streams = (source.fileno(), out.fileno(), err.fileno())
            return Captured(self.fork(arguments, environment, streams, module), out, err)

    def fork(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        streams: tuple[int, int, int],
        module: str = "",
    ) -> ForkedProcess:
        """Run a command, or a module, on these streams; a terminal becomes its controlling terminal."""
        parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([module, arguments, dict(environment), str(Path.cwd())]).encode()
        assert len(request) < MAX_REQUEST_BYTES
        with child_end:
            socket.send_fds(self._socket, [request], [*streams, child_end.fileno()])
        return ForkedProcess(module or "instachat", parent_end)

    def close(self) -> None:
        """End the server and all processes that it has forked."""
        self._socket.close()
        self._process.wait()


@cache
def fork_server() -> ForkServer:
    """The fork server of this process; it ends with this process."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def start_module(
    module: str,
    *arguments: object,
    environment: Mapping[str, str],
    stderr: IO[Any] | int | None = None,
) -> ForkedProcess:
    """Start what `python -m module arguments` would, without any input.

    `stderr` is a file, its descriptor, or None for this process's own. What the program itself writes
    there is checked; see `program_logs`.
    """
    error = 2 if stderr is None else stderr if isinstance(stderr, int) else stderr.fileno()
    if module == "instachat_cli":
        error = program_logs.watch(error)
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
        streams = (nothing.fileno(), 1, nothing.fileno() if error == subprocess.DEVNULL else error)
        return fork_server().fork([*map(str, arguments)], environment, streams, module)


def _receive(connection: socket.socket) -> bytes:
    """The next message of the fork server: first the process number, then the exit code."""
    message = connection.recv(32)
    assert message, "the fork server has ended"
    return message


# The server's process


def serve(requests: socket.socket) -> Callable[[], object]:
    """Fork per request until the client closes; in a fork, returns the function for it to call."""
    _import_everything()
    gc.collect()
    gc.freeze()  # imported modules stay: a collection would only copy their pages
    connections: dict[int, int] = {}  # by process, the socket that awaits its exit code
    child_ended, wake_up = os.pipe()
    os.set_blocking(wake_up, False)
    signal.set_wakeup_fd(wake_up)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests.fileno(), child_ended], [], [])
        if child_ended in ready:
            os.read(child_ended, 4096)
            _report_ends(connections)
        if requests.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
            if not message:
                return lambda: None
            if not (child := os.fork()):
                requests.detach()  # closed below, with all other descriptors
                return partial(_run, message, descriptors)
            connections[child] = descriptors.pop()
            os.write(connections[child], str(child).encode())
            for descriptor in descriptors:
                os.close(descriptor)


def _report_ends(connections: dict[int, int]) -> None:
    """Report the exit code of each fork that has ended."""
    while connections:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        connection = connections.pop(child)
        with suppress(BrokenPipeError):  # the test has ended
            os.write(connection, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(connection)


def _import_everything() -> None:
    import psycopg2  # noqa: F401
    import rich.live
    import rich.progress  # noqa: F401
    import typer._adapters  # noqa: F401
    from sqlalchemy.dialects.postgresql import psycopg2 as dialect  # noqa: F401

    import backend
    import instachat_cli.commands.serve
    import instachat_cli.commands.worker  # noqa: F401

    for module in pkgutil.walk_packages(backend.__path__, "backend."):
        if ".migrations" not in module.name:  # they run in Alembic only
            importlib.import_module(module.name)


def _run(message: bytes, descriptors: list[int]) -> NoReturn:
    """Become the requested process."""
    module, arguments, environment, folder = json.loads(message)
    die_with_parent()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if os.isatty(descriptors[0]):
        fcntl.ioctl(descriptors[0], termios.TIOCSCTTY, 0)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1 << 16)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    if module:
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    from instachat_cli.main import run

    code = run(arguments)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))()
