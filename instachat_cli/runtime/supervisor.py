"""Keeping everything running: what `instachat up` does.

The HTTP server and the worker are processes of their own, so that they can die and be started again. Their
standard input is a pipe that `up` holds and never writes to: however `up` ends, kill -9 included, the pipe
ends with it, and they finish what is under way and end, too (`ending`). Each is in a session of its own, as
Ctrl-C on a terminal is sent to all processes there and `up` has to decide the order: first the server, so
that nothing new is accepted, then the worker, then what is left.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from backend.api.server.address import answers, check_free, url
from backend.bootstrap import (
    Addresses,
    Backend,
    addresses,
    assemble,
    durability_faults,
    open_log,
)
from backend.domain.errors import InstaChatError
from backend.settings import Settings, redacted, variable
from backend.storage.postgres import Database
from backend.storage.postgres.schema_upgrade import upgrade
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.stderr import talk

TICK_SECONDS = 0.1
ENSURE_SECONDS = 1.0
STARTS_WITHIN = 10.0
SERVER_ENDS_WITHIN = 9.0  # it gives its own processes a little less
WORKER_ENDS_WITHIN = 5.0  # what it has not finished by then is kept in the log
DRAINED_WITHIN = 4.0
FIRST_PAUSE = 0.5  # before a worker that died is started again; doubled each time
LONGEST_PAUSE = 30.0
HEALTHY_SECONDS = 60.0  # a worker that lived for so long begins anew with the first pause
PACKAGES = Path(__file__).parents[2]
logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Run everything until the first Ctrl-C or SIGTERM, then store what is accepted.

    Raises Interrupted at the second one, and as `addresses` and `upgrade` do at the start.
    """
    stop = _Stop()
    server, worker = _Process("server", "serve"), _Process("worker", "worker")
    check_free(settings.host, settings.port)
    with stop.heeded(), addresses(settings) as at, closing(Database(at.database)) as database:
        before, schema = upgrade(database)
        with closing(open_log(settings, at)) as log:
            log.ping()
            core = assemble(settings, at, database, log)
            try:
                _say_where(settings, at, before, schema)
                worker.start()
                server.start(_address(settings))
                _await(lambda: bool(core.log.workers()), lambda: stop.asked)
                _await(lambda: answers(settings.host, settings.port), lambda: stop.asked)
                if not stop.asked:
                    _say_ready(core)
                _tend(at, [worker, server], lambda: stop.asked)
                talk.say("stopping: what is under way is finished, and what is accepted is stored")
                server.stop(SERVER_ENDS_WITHIN)
                worker.stop(WORKER_ENDS_WITHIN)
                _store_rest(core)
            except KeyboardInterrupt:
                raise Interrupted(
                    "stopped at once; what was accepted is stored next time"
                ) from None
            finally:
                server.kill()
                worker.kill()


def spawn_worker(*, stderr: int | None = None) -> "subprocess.Popen[bytes]":
    """A worker process, on this process's settings; it ends with its standard input, a pipe."""
    return _spawn("worker", stderr=stderr)


def _spawn(
    command: str, environment: Mapping[str, str] | None = None, *, stderr: int | None = None
) -> "subprocess.Popen[bytes]":
    path = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        # -P: the working folder, which may be anybody's, holds no modules of ours.
        [sys.executable, "-P", "-m", "instachat_cli", command, "--until-input-ends"],
        stdin=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env=os.environ
        | {"PYTHONPATH": f"{PACKAGES}{os.pathsep}{path}" if path else f"{PACKAGES}"}
        | dict(environment or {}),
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


class _Process:
    """The server or the worker, started again when it dies."""

    def __init__(self, name: str, command: str) -> None:
        self._name = name
        self._command = command
        self._environment: Mapping[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._again = 0.0
        self._pause = FIRST_PAUSE

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with these variables over those of this process; again with them when it dies."""
        self._environment = environment or self._environment
        self._process = _spawn(self._command, self._environment)
        self._started = time.monotonic()
        logger.info("%s started: process %d", self._name, self._process.pid)

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
            logger.warning("%s ended %s: starting it again in %g s", self._name, how, self._pause)
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
                logger.warning("the %s does not end within %g s: it is killed", self._name, seconds)
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


def _tend(at: Addresses, processes: Sequence[_Process], stopped: Callable[[], bool]) -> None:
    """Until asked to stop: see that the private engines and the processes are there."""
    ensured = time.monotonic()
    while not stopped():
        for process in processes:
            process.tend()
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
    if settings.elasticsearch_url:
        talk.say(f"  search      Elasticsearch, {redacted(settings.elasticsearch_url)}")
    talk.say(f"  HTTP        {url(settings.host, settings.port)}")
    migrated = f", migrated from {before or 'nothing'}" if before != schema else ""
    talk.say(f"  schema      {schema}{migrated}")


def _await(there: Callable[[], bool], stopped: Callable[[], bool]) -> None:
    """Wait until something is there; if it can't be started, `tend` tells of it."""
    deadline = time.monotonic() + STARTS_WITHIN
    while not stopped() and not there() and time.monotonic() < deadline:
        time.sleep(TICK_SECONDS)


def _address(settings: Settings) -> dict[str, str]:
    """The server's address as its environment: flags of `up` are not in this process's own."""
    return {variable("host"): settings.host, variable("port"): str(settings.port)}


def _say_ready(core: Backend) -> None:
    if core.settings.redis_url is not None and durability_faults(core.settings, core.log):
        talk.warning("this Redis may lose what was answered: see `instachat doctor`")
    if core.log.paused():
        talk.warning("the job queue is paused: nothing is stored until `instachat queue resume`")
    talk.say("ready: Ctrl-C stops it. Try this in another terminal:")
    talk.say('  instachat apps create "Support desk"')
    talk.say(f"  curl {url(core.settings.host, core.settings.port)}/readyz")
