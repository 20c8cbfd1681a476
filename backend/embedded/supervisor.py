"""The process that runs a home's engines: `python -m backend.embedded.supervisor HOME LOCK`.

LOCK is the descriptor of the supervisor's lock, which whoever starts this has taken. It ends when no
user is left, or at SIGTERM or SIGINT, and takes the engines with it. It must stay single-threaded: see
`processes` and `Account.acting`.
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
from backend.embedded.engines import Engine, Postgres, Site, Valkey, open_site
from backend.embedded.home import (
    STRICT,
    TITLES,
    Failure,
    Layout,
    Reported,
    StateFile,
    engine_down,
    is_held,
    log_size,
    take,
)
from backend.embedded.processes import Launcher, end_leftovers
from backend.embedded.wire import answers

IDLE_POLL = 0.1
BUSY_POLL = 0.01
"""Seconds between two looks: when all is well, and when something starts or stops."""

EAGER = 5.0
"""Seconds in which a start is looked at so often; after that a long recovery is left in peace."""

RETRY = 1.0
"""Seconds until an engine that could not start is tried again, as long as somebody wants it."""

RESTART_PAUSE = 0.1
"""Seconds from one start to the next, at least, of an engine that is killed again and again."""

ORDERLY_WITHIN = 5.0
STOP_WITHIN = 20.0
"""Seconds that an engine may take to stop, in good order and at all, before it is killed."""

LINGER = 0.2
"""Seconds that processes of an earlier life may take to end; then they are searched for."""

LOG_LIMIT = 16_000_000
"""Bytes from which on a log is put aside when its engine starts. One older log is kept."""

# Valkey first: it starts while PostgreSQL's data are created.
ENGINES: tuple[type[Engine], ...] = (Valkey, Postgres)


class Keeper:
    """One engine's life: the end of its last one awaited, prepared, started, watched, restarted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._layout = engine.site.layout
        self._title = f"the private {TITLES[engine.name]}"
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._failure: Failure | None = None
        self._started_at = 0.0
        self._next_start = 0.0
        self._log_since = 0
        self._lingering_since: float | None = None
        self._next_search = 0.0
        self._told: signal.Signals | None = None

    @property
    def report(self) -> Reported:
        sockets = str(self._engine.site.sockets)
        return Reported(sockets, self._ready, self._engine.strict, self._failure)

    def tick(self, *, wanted: bool, strict: bool) -> bool:
        """Looks once and does the next thing; quick, unless it is the creation of the data.

        Returns whether there is more to do soon.
        """
        if self._process is None:
            if not wanted or time.monotonic() < self._next_start:
                return False
            self._start(strict)
        elif (code := self._process.poll()) is not None:
            self._ended(code)
        elif not self._ready:
            self._greet()
        if self._ready and strict and not self._engine.strict:
            with suppress(OSError):  # it died just now: the next one is started strict
                self._engine.become_strict()
        began = self._lingering_since or self._started_at
        return not self._ready and time.monotonic() - began < EAGER

    def ask_to_stop(self) -> None:
        """Tells the engine to stop, in good order if it is in good order."""
        in_order = answers(self._engine.name, self._engine.site.sockets)
        self._tell(self._engine.orderly_end if in_order else self._engine.sure_end)

    def insist(self, elapsed: float) -> None:
        """Tells it again, more firmly, when too many seconds have elapsed since it was asked."""
        if elapsed > STOP_WITHIN:
            self._tell(signal.SIGKILL)
        elif elapsed > ORDERLY_WITHIN:
            self._tell(self._engine.sure_end)

    def _tell(self, what: signal.Signals) -> None:
        if self._process and self._process.poll() is None and what != self._told:
            self._process.send_signal(what)
            self._told = what

    def is_over(self) -> bool:
        """Whether no process of the engine is left."""
        if self._process is not None and self._process.poll() is None:
            return False
        alive = self._alone()
        if alive is None:
            return False
        os.close(alive)
        return True

    def _start(self, strict: bool) -> None:
        alive = self._alone()
        if alive is None:
            return
        # Before it is up, not by telling it then: its clients are back as soon as it is. And once raised
        # it stays so.
        self._engine.strict = self._engine.strict or strict
        self._started_at = time.monotonic()
        try:
            with self._opened_log() as log:
                launcher = Launcher(self._engine.site.account, log.fileno(), alive)
                self._engine.prepare(launcher)
                self._process = launcher.start(self._engine.command(), self._engine.sure_end)
        except InstaChatError as error:
            self._fail(error)
        except (OSError, subprocess.SubprocessError) as error:
            self._fail(self._down(f"{self._title} can't be started: {error}"))
        finally:
            os.close(alive)  # the engine has its own by now

    def _alone(self) -> int | None:
        """The engine's lock, to be inherited by the next process; None while an earlier one has it."""
        now = time.monotonic()
        alive = take(self._layout.alive(self._engine.name), fcntl.LOCK_EX)
        if alive is not None:
            self._lingering_since = None
        elif self._lingering_since is None:
            self._lingering_since = now
            self._next_search = now + LINGER
        elif now >= self._next_search:
            self._next_search = now + RETRY
            say(f"{self._title}: an earlier one is still alive")
            engine = self._engine
            by_force = now - self._lingering_since > STOP_WITHIN
            end_leftovers(
                engine.site.account,
                engine.mark,
                engine.main_option,
                engine.sure_end,
                by_force=by_force,
            )
        return alive

    def _greet(self) -> None:
        self._ready = answers(self._engine.name, self._engine.site.sockets)
        if self._ready:
            self._failure = None
            say(f"{self._title} answers after {time.monotonic() - self._started_at:.2f} s")

    def _ended(self, code: int) -> None:
        was_ready, self._ready, self._process = self._ready, False, None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        say(f"{self._title} {how}")
        if was_ready or code == -signal.SIGKILL:
            self._next_start = self._started_at + RESTART_PAUSE
        else:
            self._fail(self._down(f"{self._title} {how} instead of starting"))

    def _fail(self, error: InstaChatError) -> None:
        say(error.message)
        self._failure = failure_of(error, self._started_at)
        self._next_start = time.monotonic() + RETRY

    def _down(self, message: str) -> InstaChatError:
        return engine_down(self._layout, message, self._engine.name, self._log_since)

    def _opened_log(self) -> BinaryIO:
        log = self._layout.log(self._engine.name)
        if log_size(log) > LOG_LIMIT:
            log.replace(f"{log}.1")
        self._log_since = log_size(log)
        return log.open("ab")


class Supervisor:
    """All engines of a home, as long as it has users."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._state = StateFile(layout)
        self._keepers: dict[str, Keeper] = {}
        self._told_to_stop = False

    def tell_to_stop(self) -> None:
        self._told_to_stop = True

    def run(self) -> None:
        """Returns when the engines have stopped. Raises OSError if the home can't be written to."""
        started_at = time.monotonic()
        try:
            site = open_site(self._layout)
        except InstaChatError as error:
            self._give_up(failure_of(error, started_at))
            return
        try:
            while not self._told_to_stop:
                # Once had, it is kept to the end: who arrives meanwhile waits, and starts afresh.
                if take(self._layout.users_lock, fcntl.LOCK_EX) is not None:
                    break
                busy = self._tick(site)
                time.sleep(BUSY_POLL if busy else IDLE_POLL)
        finally:
            self._stop(site)

    def _tick(self, site: Site) -> bool:
        """Gives each engine its turn and says how they are; returns whether there is more to do soon."""
        busy = False
        strict = is_held(self._layout.wanted(STRICT))
        for kind in ENGINES:
            wanted = is_held(self._layout.wanted(kind.name))
            if wanted and kind.name not in self._keepers:
                self._keepers[kind.name] = Keeper(kind(site))
            if keeper := self._keepers.get(kind.name):
                busy |= keeper.tick(wanted=wanted, strict=strict)
        self._state.publish({name: keeper.report for name, keeper in self._keepers.items()})
        return busy

    def _stop(self, site: Site) -> None:
        self._state.retract()
        began = time.monotonic()
        for keeper in self._keepers.values():
            keeper.ask_to_stop()
        for keeper in self._keepers.values():
            while not keeper.is_over():
                keeper.insist(time.monotonic() - began)
                time.sleep(BUSY_POLL)
        site.close()

    def _give_up(self, failure: Failure) -> None:
        """Lets the users know, and leaves: who waits starts another supervisor, which looks again."""
        say(failure.message)
        self._state.publish({kind.name: Reported("", failure=failure) for kind in ENGINES})
        deadline = time.monotonic() + RETRY
        while is_held(self._layout.users_lock) and time.monotonic() < deadline:
            time.sleep(IDLE_POLL)
        self._state.retract()


def failure_of(error: InstaChatError, began: float) -> Failure:
    return Failure(type(error).__name__, error.message, error.hint, began)


def say(text: str) -> None:
    """Writes a line to the supervisor's log."""
    with suppress(OSError):  # a full disk, of which the users hear in another way
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())} {text}\n")
        sys.stderr.flush()


def main(home: str, lock: str) -> None:
    # As nobody's child: no user has to wait for its end, or to hear of it.
    if os.fork():
        os._exit(0)
    os.set_inheritable(int(lock), False)
    os.umask(0o077)
    supervisor = Supervisor(Layout(Path(home)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.tell_to_stop())
    try:
        supervisor.run()
    except OSError as error:  # most likely its disk is full
        say(f"the supervisor can't go on: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
