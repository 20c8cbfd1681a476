"""The supervisor of `instachat up`: it keeps the engines, the HTTP server and a worker running.

The server and the worker are separate processes, so that a crashed one can be restarted. `up` holds their
standard input, a pipe, and never writes to it: when `up` ends, even by kill -9, the pipe closes and they
stop gracefully (`signals.terminate_on_stdin_end`). Each runs in its own session, because a terminal sends
Ctrl-C to all processes of a session and `up` has to stop them in order: the server first, so that nothing
new is accepted, then the worker; then `up` drains the rest of the log itself.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from backend.api.server.address import check_free, is_responding, url
from backend.bootstrap import (
    Backend,
    EngineUrls,
    engine_urls,
    open_parts,
)
from backend.domain.errors import InstaChatError
from backend.domain.plurals import counted
from backend.monitoring.durability import read_wrong_settings
from backend.monitoring.repeated_checks import RepeatedChecks
from backend.runtime.processes import (
    CommandChild,
    RestartPolicy,
    SupervisedProcess,
    python_path,
)
from backend.runtime.signals import handling, terminate_after
from backend.settings import Settings, environment_variable, redact
from backend.storage.postgres.schema_upgrade import upgrade
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.stderr import stderr

POLL_SECONDS = 0.1
ENGINE_CHECK_SECONDS = 1.0
START_TIMEOUT_SECONDS = 10.0
SERVER_STOP_TIMEOUT_SECONDS = 9.0  # longer than the server gives its own processes
WORKER_STOP_TIMEOUT_SECONDS = 5.0  # entries not stored by then stay in the log
DRAIN_TIMEOUT_SECONDS = 4.0
RESTART_POLICY = RestartPolicy(first_delay=0.5, max_delay=30.0, healthy=60.0)
logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Run everything until the first Ctrl-C or SIGTERM, then store the accepted entries.

    Raises Interrupted at the second signal, whatever `engine_urls` and `upgrade` raise at the start,
    WrongRedis, and SchemaMismatch once the database does not admit this program any more.
    """
    stop = _StopRequest()
    server = _supervised("server", "serve", _address_environment(settings))
    worker = _supervised("worker", "worker")
    check_free(settings.host, settings.port)
    with (
        handling(stop.handle_signal, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        engine_urls(settings) as urls,
        open_parts(settings, urls) as core,
    ):
        before, schema = upgrade(core.database)
        core.log.ping()
        core.log.refuse_old_servers()
        core.epochs.recognition.refuse_wrong()
        try:
            _print_addresses(settings, urls, before, schema)
            worker.start()
            server.start()
            _wait_for(lambda: bool(core.workers.count()), lambda: stop.requested)
            _wait_for(lambda: is_responding(settings.host, settings.port), lambda: stop.requested)
            if not stop.requested:
                _print_ready(core)
            checks = RepeatedChecks(core.database.check_schema)
            terminate_after(checks.run, "checks")
            _supervise(urls, [worker, server], lambda: stop.requested)
            stderr.write_line("stopping: finishing requests and storing accepted messages")
            server.stop(SERVER_STOP_TIMEOUT_SECONDS)
            worker.stop(WORKER_STOP_TIMEOUT_SECONDS)
            if checks.failure:
                raise checks.failure
            _drain_remaining(core)
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped immediately; accepted messages are stored at the next start"
            ) from None
        finally:
            server.kill()
            worker.kill()


def spawn_worker(*, stderr: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a worker process with this process's settings; it stops when its standard input, a pipe, ends."""
    return _spawn("worker", stderr=stderr)


def _spawn(
    command: str, environment: Mapping[str, str] | None = None, *, stderr: int | None = None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        # -P: the working folder, which anybody may write to, must not be searched for modules.
        [sys.executable, "-P", "-m", "instachat_cli", command, "--until-input-ends"],
        stdin=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": python_path()} | dict(environment or {}),
    )


def _supervised(
    name: str, command: str, environment: Mapping[str, str] | None = None
) -> SupervisedProcess[CommandChild]:
    return SupervisedProcess(
        name, lambda: CommandChild(_spawn(command, environment)), RESTART_POLICY
    )


class _StopRequest:
    """Whether a signal asked `up` to stop. A second signal raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def handle_signal(self, *_: object) -> None:
        """The signal handler."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True  # no lock: the interrupted code may hold it


def _supervise(
    urls: EngineUrls,
    processes: Sequence[SupervisedProcess[CommandChild]],
    stopped: Callable[[], bool],
) -> None:
    """Restart dead processes and private engines until asked to stop."""
    checked_at = time.monotonic()
    while not stopped():
        for process in processes:
            process.restart_if_dead()
        if urls.engines is not None and time.monotonic() - checked_at > ENGINE_CHECK_SECONDS:
            try:
                urls.engines.ensure()
            except InstaChatError as error:
                logger.warning("%s", error.message)
            checked_at = time.monotonic()
        time.sleep(POLL_SECONDS)


def _drain_remaining(core: Backend) -> None:
    """Store the entries left in the log, for at most DRAIN_TIMEOUT_SECONDS."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
    try:
        if core.workers.paused():
            stderr.write_line(
                "stopped; the job queue is paused: accepted messages are stored after"
                " `instachat queue resume`"
            )
            return
        while core.drainer.drain_all() and time.monotonic() < deadline:
            pass
        remaining = core.log.waiting(core.database.refresh_installation().all_shards)
    except InstaChatError as error:
        stderr.warning(f"{error.message}; accepted messages are kept")
        return
    if remaining:
        stderr.warning(
            f"{counted(remaining, 'accepted entry is', 'accepted entries are')} not stored yet, but will be"
            " at the next start"
        )
    else:
        stderr.write_line("stopped; everything accepted is stored")


def _print_addresses(settings: Settings, urls: EngineUrls, before: str | None, schema: str) -> None:
    private = f"private, in {settings.home}"
    postgres, redis = (
        redact(url) if url else private for url in (settings.database_url, settings.redis_url)
    )
    stderr.write_line("InstaChat")
    stderr.write_line(f"  PostgreSQL  {postgres}")
    stderr.write_line(f"  Redis       {redis} ({settings.durability})")
    if urls.huey != urls.redis:
        stderr.write_line(f"  job queue   {redact(urls.huey)}")
    if settings.elasticsearch_url:
        stderr.write_line(f"  search      Elasticsearch, {redact(settings.elasticsearch_url)}")
    stderr.write_line(f"  HTTP        {url(settings.host, settings.port)}")
    migrated = f", migrated from {before or 'nothing'}" if before != schema else ""
    stderr.write_line(f"  schema      {schema}{migrated}")


def _wait_for(condition: Callable[[], bool], stopped: Callable[[], bool]) -> None:
    """Wait until the condition holds, at most START_TIMEOUT_SECONDS; failures to start are logged later."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not stopped() and not condition() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _address_environment(settings: Settings) -> dict[str, str]:
    """The server's address as environment variables, since it may come from flags of `up`."""
    return {
        environment_variable("host"): settings.host,
        environment_variable("port"): str(settings.port),
    }


def _print_ready(core: Backend) -> None:
    if core.settings.redis_url is not None and read_wrong_settings(core.settings, core.log):
        stderr.warning("this Redis may lose acknowledged messages: see `instachat doctor`")
    if core.workers.paused():
        stderr.warning("the job queue is paused: nothing is stored until `instachat queue resume`")
    stderr.write_line("ready; press Ctrl-C to stop. Try this in another terminal:")
    stderr.write_line('  instachat apps create "Support desk"')
    stderr.write_line(f"  curl {url(core.settings.host, core.settings.port)}/readyz")
