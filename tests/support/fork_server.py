"""A process that has loaded the whole program, and forks a process for each command that it is sent.

The fork takes the arguments, the environment and the three streams, and runs the very entry point. What it
does not repeat is the loading of modules: tests of that start the program from nothing.
"""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from dataclasses import dataclass
from typing import IO, Any, NoReturn

MAX_REQUEST_BYTES = 1 << 20  # bytes of a request
TIMEOUT_SECONDS = 120  # that a command may take


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

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
        """Standard error, as the one JSON object that `-o json` promises."""
        assert len(self.err.splitlines()) == 1, self.err
        return json.loads(self.err)


def checked(code: int, out: bytes, err: bytes) -> Result:
    """The result of a command; none may ever show a traceback."""
    assert b"Traceback" not in err, err.decode()
    return Result(code, out.decode(), err.decode())


class Forked:
    """A command under way."""

    def __init__(self, done: socket.socket) -> None:
        self._done = done

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not select.select([self._done], [], [], 0)[0]

    def wait(self) -> int:
        """Wait for its end; returns its exit code."""
        with self._done:
            code = self._done.recv(16)
        assert code, "the command was killed"
        return int(code)


class Captured:
    """A command under way, whose output is kept."""

    def __init__(self, forked: Forked, out: IO[bytes], err: IO[bytes]) -> None:
        self._forked = forked
        self._out = out
        self._err = err

    def result(self) -> Result:
        """Wait for its end."""
        with self._out, self._err:
            code = self._forked.wait()
            self._out.seek(0)
            self._err.seek(0)
            return checked(code, self._out.read(), self._err.read())


class ForkServer:
    """The test's end."""

    def __init__(self) -> None:
        self._socket, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(child_end.fileno())],
            pass_fds=[child_end.fileno()],
        )
        child_end.close()

    def capture(self, arguments: list[str], environment: dict[str, str], stdin: bytes) -> Captured:
        """Run a command on that input, and keep what it says."""
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  # closed by result
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            streams = (source.fileno(), out.fileno(), err.fileno())
            return Captured(self.fork(arguments, environment, streams), out, err)

    def fork(
        self, arguments: list[str], environment: dict[str, str], streams: tuple[int, int, int]
    ) -> Forked:
        """Run a command on these streams; a terminal becomes its controlling one."""
        parent_end, child_end = socket.socketpair()
        parent_end.settimeout(TIMEOUT_SECONDS)
        request = json.dumps([arguments, environment]).encode()
        assert len(request) < MAX_REQUEST_BYTES
        with child_end:
            socket.send_fds(self._socket, [request], [*streams, child_end.fileno()])
        return Forked(parent_end)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()


def serve(requests: socket.socket) -> None:
    """The process's end: fork for each request, until the test closes."""
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits: the fork itself tells the code
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
        if not request:
            return
        if not os.fork():
            requests.close()
            arguments, environment = json.loads(request)
            _run(arguments, environment, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _import_everything() -> None:
    import psycopg2  # noqa: F401
    import rich.live
    import rich.progress  # noqa: F401
    import typer._adapters  # noqa: F401
    from sqlalchemy.dialects.postgresql import psycopg2 as dialect  # noqa: F401

    import backend.bootstrap
    import backend.monitoring.doctor
    import backend.monitoring.status  # noqa: F401


def _run(arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> NoReturn:
    from instachat_cli.main import run

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _tell_code_of_child(descriptors)
    os.setsid()
    if os.isatty(descriptors[0]):
        fcntl.ioctl(descriptors[0], termios.TIOCSCTTY, 0)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    code = run(arguments)
    sys.stderr.flush()
    os._exit(code)


def _tell_code_of_child(descriptors: list[int]) -> None:
    """Go on in a fork; this process tells its exit code, however it ends, unless a signal killed it."""
    if child := os.fork():
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code >= 0:
            os.write(descriptors[3], str(code).encode())
        os._exit(0)
    os.close(descriptors[3])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
