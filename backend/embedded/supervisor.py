"""The process that runs a home's engines: `python -m backend.embedded.supervisor HOME LOCK`.

LOCK is the descriptor of the supervisor's lock, which the starting process has taken. The supervisor stops
the engines and exits when no user is left, or on SIGTERM or SIGINT. It must stay single-threaded: see
`processes` and `Account.as_engine_user`. It does not use `backend.runtime.processes`: its restarts depend
on locks and on readiness, and it imports little so that it starts fast.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from backend.domain.errors import InstaChatError
from backend.embedded.engines import Engine, EngineContext, Postgres, Valkey, open_context
from backend.embedded.home import STRICT, TITLES, Layout
from backend.embedded.locks import is_held, try_lock
from backend.embedded.logs import engine_down, log_size
from backend.embedded.processes import Launcher, end_orphans
from backend.embedded.state import EngineState, StartFailure, StateFile
from backend.embedded.wire import answers

IDLE_POLL_SECONDS = 0.1
BUSY_POLL_SECONDS = 0.01
"""Poll intervals: in the steady state, and while an engine starts or stops."""

FAST_POLL_SECONDS = 5.0
"""How long a start is polled at the short interval. A longer recovery is polled at the long one."""

RETRY_SECONDS = 1.0
"""Delay before an engine that failed to start is tried again, while a user needs it."""

MIN_RESTART_INTERVAL_SECONDS = 0.1
"""Minimum time between two starts of an engine that is killed repeatedly."""

ORDERLY_STOP_TIMEOUT_SECONDS = 5.0
STOP_TIMEOUT_SECONDS = 20.0
"""How long an engine may take for an orderly stop, and for any stop before it is killed."""

ORPHAN_GRACE_SECONDS = 0.2
"""How long processes of an earlier run may take to end before they are searched for."""

MAX_LOG_BYTES = 16_000_000
"""Size from which a log is rotated when its engine starts. One older log is kept."""

# Valkey first: it starts while PostgreSQL's data are created.
ENGINES: tuple[type[Engine], ...] = (Valkey, Postgres)


class EngineProcess:
    """One engine: awaits the end of earlier processes, prepares, starts, watches and restarts it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._layout = engine.context.layout
        self._title = f"the private {TITLES[engine.name]}"
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._failure: StartFailure | None = None
        self._started_at = 0.0
        self._next_start = 0.0
        self._log_since = 0
        self._orphans_since: float | None = None
        self._next_orphan_search = 0.0
        self._sent_signal: signal.Signals | None = None

    @property
    def report(self) -> EngineState:
        sockets = str(self._engine.context.sockets)
        return EngineState(sockets, self._ready, self._engine.strict, self._failure)

    def advance(self, *, wanted: bool, strict: bool) -> bool:
        """Check the engine once and take the next step. Fast, unless that step is the creation of the data.

        Returns whether the next step is due soon.
        """
        if self._process is None:
            if not wanted or time.monotonic() < self._next_start:
                return False
            self._start(strict)
        elif (code := self._process.poll()) is not None:
            self._handle_exit(code)
        elif not self._ready:
            self._check_ready()
        if self._ready and strict and not self._engine.strict:
            with suppress(OSError):  # it has just died: the next start is strict
                self._engine.enable_strict()
        began = self._orphans_since or self._started_at
        return not self._ready and time.monotonic() - began < FAST_POLL_SECONDS

    def request_stop(self) -> None:
        """Ask the engine to stop: in an orderly way if it answers, by force otherwise."""
        in_order = answers(self._engine.name, self._engine.context.sockets)
        self._send_signal(
            self._engine.orderly_stop_signal if in_order else self._engine.forced_stop_signal
        )

    def escalate_stop(self, elapsed: float) -> None:
        """Send a stronger signal if the engine has not stopped `elapsed` seconds after it was asked to."""
        if elapsed > STOP_TIMEOUT_SECONDS:
            self._send_signal(signal.SIGKILL)
        elif elapsed > ORDERLY_STOP_TIMEOUT_SECONDS:
            self._send_signal(self._engine.forced_stop_signal)

    def _send_signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None and number != self._sent_signal:
            self._process.send_signal(number)
            self._sent_signal = number

    def has_stopped(self) -> bool:
        """Whether no process of the engine is left."""
        if self._process is not None and self._process.poll() is None:
            return False
        alive = self._take_alive_lock()
        if alive is None:
            return False
        os.close(alive)
        return True

    def _start(self, strict: bool) -> None:
        alive = self._take_alive_lock()
        if alive is None:
            return
        # Before the start: clients reconnect as soon as the engine runs. Strict is never lowered again.
        self._engine.strict = self._engine.strict or strict
        self._started_at = time.monotonic()
        try:
            with self._open_log() as log:
                launcher = Launcher(self._engine.context.account, log.fileno(), alive)
                self._engine.prepare(launcher)
                self._process = launcher.start(
                    self._engine.command(), self._engine.forced_stop_signal
                )
        except InstaChatError as error:
            self._record_failure(error)
        except (OSError, subprocess.SubprocessError) as error:
            self._record_failure(self._engine_down(f"{self._title} can't be started: {error}"))
        finally:
            os.close(alive)  # the engine has inherited its own descriptor

    def _take_alive_lock(self) -> int | None:
        """The engine's lock, for the next process to inherit; None while an earlier process holds it."""
        now = time.monotonic()
        alive = try_lock(self._layout.alive(self._engine.name), fcntl.LOCK_EX)
        if alive is not None:
            self._orphans_since = None
        elif self._orphans_since is None:
            self._orphans_since = now
            self._next_orphan_search = now + ORPHAN_GRACE_SECONDS
        elif now >= self._next_orphan_search:
            self._next_orphan_search = now + RETRY_SECONDS
            log_line(f"{self._title}: an earlier process is still running")
            engine = self._engine
            by_force = now - self._orphans_since > STOP_TIMEOUT_SECONDS
            end_orphans(
                engine.context.account,
                engine.process_tag,
                engine.main_option,
                engine.forced_stop_signal,
                by_force=by_force,
            )
        return alive

    def _check_ready(self) -> None:
        self._ready = answers(self._engine.name, self._engine.context.sockets)
        if self._ready:
            self._failure = None
            log_line(f"{self._title} answers after {time.monotonic() - self._started_at:.2f} s")

    def _handle_exit(self, code: int) -> None:
        was_ready, self._ready, self._process = self._ready, False, None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        log_line(f"{self._title} {how}")
        if was_ready or code == -signal.SIGKILL:
            self._next_start = self._started_at + MIN_RESTART_INTERVAL_SECONDS
        else:
            self._record_failure(self._engine_down(f"{self._title} {how} instead of starting"))

    def _record_failure(self, error: InstaChatError) -> None:
        log_line(error.message)
        self._failure = failure_from(error, self._started_at)
        self._next_start = time.monotonic() + RETRY_SECONDS

    def _engine_down(self, message: str) -> InstaChatError:
        return engine_down(self._layout, message, self._engine.name, self._log_since)

    def _open_log(self) -> BinaryIO:
        log = self._layout.log(self._engine.name)
        if log_size(log) > MAX_LOG_BYTES:
            log.replace(f"{log}.1")
        self._log_since = log_size(log)
        return log.open("ab")


class Supervisor:
    """Runs the engines of a home as long as it has users."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._state = StateFile(layout)
        self._processes: dict[str, EngineProcess] = {}
        self._stop_requested = False

    def request_stop(self) -> None:
        self._stop_requested = True

    def run(self) -> None:
        """Run until the engines have stopped. Raises OSError if the home can't be written to."""
        started_at = time.monotonic()
        try:
            context = open_context(self._layout)
        except InstaChatError as error:
            self._report_failure(failure_from(error, started_at))
            return
        try:
            while not self._stop_requested:
                # Held until the end, so that a user that arrives during the stop waits and starts a new
                # supervisor.
                if try_lock(self._layout.users_lock, fcntl.LOCK_EX) is not None:
                    break
                busy = self._advance_engines(context)
                time.sleep(BUSY_POLL_SECONDS if busy else IDLE_POLL_SECONDS)
        finally:
            self._stop(context)

    def _advance_engines(self, context: EngineContext) -> bool:
        """Advance each engine and publish the state; returns whether a next step is due soon."""
        busy = False
        strict = is_held(self._layout.wanted(STRICT))
        for kind in ENGINES:
            wanted = is_held(self._layout.wanted(kind.name))
            if wanted and kind.name not in self._processes:
                self._processes[kind.name] = EngineProcess(kind(context))
            if process := self._processes.get(kind.name):
                busy |= process.advance(wanted=wanted, strict=strict)
        self._state.publish({name: process.report for name, process in self._processes.items()})
        return busy

    def _stop(self, context: EngineContext) -> None:
        self._state.retract()
        began = time.monotonic()
        for process in self._processes.values():
            process.request_stop()
        for process in self._processes.values():
            while not process.has_stopped():
                process.escalate_stop(time.monotonic() - began)
                time.sleep(BUSY_POLL_SECONDS)
        context.close()

    def _report_failure(self, failure: StartFailure) -> None:
        """Publish the failure and exit. Users that still wait start another supervisor, which tries again."""
        log_line(failure.message)
        self._state.publish({kind.name: EngineState("", failure=failure) for kind in ENGINES})
        deadline = time.monotonic() + RETRY_SECONDS
        while is_held(self._layout.users_lock) and time.monotonic() < deadline:
            time.sleep(IDLE_POLL_SECONDS)
        self._state.retract()


def failure_from(error: InstaChatError, began: float) -> StartFailure:
    return StartFailure(type(error).__name__, error.message, error.hint, began)


def log_line(text: str) -> None:
    """Write a line to the supervisor's log."""
    with suppress(OSError):  # the disk is full, which the users are told in another way
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())} {text}\n")
        sys.stderr.flush()


def main(home: str, lock: str) -> None:
    # Daemonize, so that no user has to wait for its end.
    if os.fork():
        os._exit(0)
    os.set_inheritable(int(lock), False)
    os.umask(0o077)
    supervisor = Supervisor(Layout(Path(home)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.request_stop())
    try:
        supervisor.run()
    except OSError as error:  # most likely because its disk is full
        log_line(f"the supervisor can't continue: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
