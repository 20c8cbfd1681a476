"""The child processes of a run: started with a log file, watched, and stopped."""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest.errors import Unusable

MAX_ERROR_LINES = 3


class ChildProcess:
    """A program that this process has started; its output goes to a log file.

    Its standard input is a pipe that this process holds open and never writes to. When this process ends,
    even by `kill -9`, the child reads the end of its input, and exits. It leads a session of its own, so
    that Ctrl-C in the terminal reaches only this process.
    """

    def __init__(
        self,
        command: Sequence[object],
        log: Path,
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.exit_code is None

    def last_lines(self) -> str:
        """The last lines of its log that report an error, or else its last lines, joined into one line."""
        output = self._log.read_text(errors="replace")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        return " · ".join((errors or lines)[-MAX_ERROR_LINES:]) or "nothing"

    def terminate(self, timeout: float) -> None:
        """End it by SIGTERM, else by SIGINT, else by SIGKILL; each signal has `timeout` seconds to work."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            self._process.send_signal(number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
            break
        assert self._process.stdin
        self._process.stdin.close()  # only now: a closed input asks the child to end as well

    def interrupt(self, timeout: float) -> None:
        """Ask it by SIGINT to end; after `timeout` seconds end it by SIGKILL. Nothing if it has ended."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self._process.stdin
        self._process.stdin.close()

    def kill(self) -> None:
        """End it and all processes of its session at once; does nothing if it has ended."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


_PORTS = range(10_000, 32_000)
"""Below those of outgoing connections, one of which could take a port before its server does."""
_PORTS_TRIED = 100
# Not the seeded generator: other processes may have the same seed, and would try the same ports.
_random = random.SystemRandom()


def free_port(preferred: int | None = None) -> int:
    """A free port of the loopback address: the preferred one, or any if that is taken.

    Raises Unusable if no port is free.
    """
    for port in (*([preferred] if preferred else []), *_random.sample(_PORTS, _PORTS_TRIED)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unusable("there is no free port")
