"""Keeping everything running: what `instachat up` does.

The worker is a process of its own, so that it can die and be started again. Its standard input is a pipe
that `up` holds and never writes to: however `up` ends, kill -9 included, the pipe ends with it, and the
worker finishes its batch and ends, too (`ending`). It is in a session of its own, as Ctrl-C on a terminal
is sent to all processes there and `up` has to decide the order: first the worker, then what is left.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from backend.bootstrap import (
    Addresses,
    Backend,
    addresses,
    assemble,
    durability_faults,
    open_log,
)
from backend.errors import InstaChatError
from backend.migrations import upgrade
from backend.settings import Settings, redacted
from backend.sql import Database
from instachat_cli.failures import Interrupted
from instachat_cli.talk import talk

TICK_SECONDS = 0.1
ENSURE_SECONDS = 1.0
WORKER_STARTS_WITHIN = 10.0
WORKER_ENDS_WITHIN = 5.0  # what it has not finished by then is kept in the log
DRAINED_WITHIN = 4.0
FIRST_PAUSE = 0.5  # before a worker that died is started again; doubled each time
LONGEST_PAUSE = 30.0
HEALTHY_SECONDS = 60.0  # a worker that lived for so long begins anew with the first pause
PACKAGES = Path(__file__).parent.parent
logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Run everything until the first Ctrl-C or SIGTERM, then store what is accepted.

    Raises Interrupted at the second one, and as `addresses` and `upgrade` do at the start.
    """
    stop = _Stop()
    worker = _WorkerProcess()
    with stop.heeded(), addresses(settings) as at, closing(Database(at.database)) as database:
        before, schema = upgrade(database)
        with closing(open_log(settings, at)) as log:
            log.ping()
            core = assemble(settings, at, database, log)
            try:
                _say_where(settings, at, before, schema)
                worker.start()
                _await_worker(core, lambda: stop.asked)
                if not stop.asked:
                    _say_ready(core)
                _tend(at, worker, lambda: stop.asked)
                talk.say("stopping: the worker finishes, then what is accepted is stored")
                worker.stop(WORKER_ENDS_WITHIN)
                _store_rest(core)
            except KeyboardInterrupt:
                raise Interrupted(
                    "stopped at once; what was accepted is stored next time"
                ) from None
            finally:
                worker.kill()


def spawn_worker(*, stderr: int | None = None) -> "subprocess.Popen[bytes]":
    """A worker process, on this process's settings; it ends with its standard input, a pipe."""
    path = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        # -P: the working folder, which may be anybody's, holds no modules of ours.
        [sys.executable, "-P", "-m", "instachat_cli", "worker", "--until-input-ends"],
        stdin=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": f"{PACKAGES}{os.pathsep}{path}" if path else f"{PACKAGES}"},
    )


class _Stop:
    """Whether somebody asked to stop; asking twice is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Listen to Ctrl-C, SIGTERM, and the terminal's being closed."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True  # no lock here: it may be held by what this has interrupted


class _WorkerProcess:
    """The worker, started again when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._again = 0.0
        self._pause = FIRST_PAUSE

    def start(self) -> None:
        """Start it."""
        self._process = spawn_worker()
        self._started = time.monotonic()
        logger.info("worker started: process %d", self._process.pid)

    def tend(self) -> None:
        """Start it again if it has died, after a pause that grows."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._again:
                self.start()
        elif (code := self._process.poll()) is not None:
            if now - self._started > HEALTHY_SECONDS:
                self._pause = FIRST_PAUSE
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            logger.warning("worker ended %s: starting it again in %g s", how, self._pause)
            self._forget()
            self._again = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def stop(self, seconds: float) -> None:
        """Let it finish what is under way; after so many seconds it is killed, which harms nothing."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                logger.warning("the worker does not end within %g s: it is killed", seconds)
            self.kill()

    def kill(self) -> None:
        """End it at once, if it is still there."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def _tend(at: Addresses, worker: _WorkerProcess, stopped: Callable[[], bool]) -> None:
    """Until asked to stop: see that the private engines and the worker are there."""
    ensured = time.monotonic()
    while not stopped():
        worker.tend()
        if at.engines is not None and time.monotonic() - ensured > ENSURE_SECONDS:
            try:
                at.engines.ensure()
            except InstaChatError as error:
                logger.warning("%s", error.message)
            ensured = time.monotonic()
        time.sleep(TICK_SECONDS)


def _store_rest(core: Backend) -> None:
    """Store what is still in the log, for some seconds."""
    deadline = time.monotonic() + DRAINED_WITHIN
    try:
        if core.log.paused():
            talk.say("stopped; the job queue is paused, and what is accepted is stored after it")
            return
        while core.drainer.drain_all() and time.monotonic() < deadline:
            pass
        left = sum(core.log.lengths(core.database.installation.shards))
    except InstaChatError as error:
        talk.warning(f"{error.message}; what is accepted stays accepted")
        return
    if left:
        talk.warning(f"{left:,} accepted entries are not stored yet; they are when it runs again")
    else:
        talk.say("stopped; all that was accepted is stored")


def _say_where(settings: Settings, at: Addresses, before: str | None, schema: str) -> None:
    private = f"private, in {settings.home}"
    postgres, redis = (
        redacted(url) if url else private for url in (settings.database_url, settings.redis_url)
    )
    talk.say("InstaChat")
    talk.say(f"  PostgreSQL  {postgres}")
    talk.say(f"  Redis       {redis} ({settings.durability})")
    if at.huey != at.redis:
        talk.say(f"  job queue   {redacted(at.huey)}")
    migrated = f", migrated from {before or 'nothing'}" if before != schema else ""
    talk.say(f"  schema      {schema}{migrated}")


def _await_worker(core: Backend, stopped: Callable[[], bool]) -> None:
    """Wait until a worker says that it is running; one that can't be started is told of by `tend`."""
    deadline = time.monotonic() + WORKER_STARTS_WITHIN
    while not stopped() and not core.log.workers() and time.monotonic() < deadline:
        time.sleep(TICK_SECONDS)


def _say_ready(core: Backend) -> None:
    if core.settings.redis_url is not None and durability_faults(core.settings, core.log):
        talk.warning("this Redis may lose what was answered: see `instachat doctor`")
    if core.log.paused():
        talk.warning("the job queue is paused: nothing is stored until `instachat queue resume`")
    talk.say("ready: Ctrl-C stops it. Try this in another terminal:")
    talk.say('  instachat apps create "Support desk"')
