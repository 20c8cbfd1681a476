"""The HTTP server: Uvicorn, in one or more processes on one port.

Each is started anew when it dies, and ends with the process that started it.
"""

import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running

import uvicorn

from backend.api.app import create_app
from backend.api.health import process_metrics
from backend.api.middleware import Observer, RequestMiddleware
from backend.api.server import logs
from backend.api.server.address import BACKLOG, open_listeners
from backend.api.server.connection import TIMEOUT_CHECK_SECONDS, Connection
from backend.api.server.fast_path import FastConnection, FastPath
from backend.api.server.processes import supervise
from backend.domain.errors import InstaChatError
from backend.settings import Settings

SWITCH_INTERVAL_SECONDS = (
    0.0005  # a tenth of Python's own: the core's threads get their turn beside a busy loop
)
ENSURE_INTERVAL_SECONDS = 1.0
STOP_TIMEOUT_SECONDS = 8  # seconds; a process that is still there by then is killed
ANSWER_TIMEOUT_SECONDS = 6  # of that; what is not answered by then is cut off

logger = logging.getLogger(__name__)


def serve(settings: Settings, processes: int, ensure_engines: Callable[[], object] | None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, which finish what is under way. In the main thread only.

    `ensure_engines` is called once a second meanwhile, by a thread. Raises Failed if the address can't be
    used, or if
    the processes die as soon as they are started.
    """

    def close() -> None:  # who comes from now on is refused
        for listener in sockets:
            listener.close()

    # A socket each, so that the kernel shares out the connections; one that has just died is waited for.
    sockets = open_listeners(settings.host, settings.port, processes)
    if ensure_engines is not None:
        threading.Thread(
            target=_ensure_repeatedly, args=(ensure_engines,), name="ensure-engines", daemon=True
        ).start()
    with process_metrics.share_metrics():
        supervise(
            [partial(_start_process, settings, listener) for listener in sockets],
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
            on_stop=close,
        )


def _start_process(settings: Settings, listener: socket.socket) -> BaseProcess:
    # Not by forking: what this process has open is its own.
    process = multiprocessing.get_context("spawn").Process(
        target=_run_process, args=(settings, listener), name="server"
    )
    # Ctrl-C reaches every process on the terminal. A child that is still loading modules would end with a
    # traceback, so SIGINT stays blocked in it until `_run_process` has installed its handlers. Starting
    # multiprocessing's resource tracker unblocks SIGINT here; it is started first.
    ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run_process(settings: Settings, listener: socket.socket) -> None:
    """All that a process of the server does."""
    _raise_open_file_limit()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the one that started it is told, and tells it
    _stop_with_parent()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    with closing(logs.configure()) as log_handler:
        server = create_server(settings, [log_handler.log_request, process_metrics.observe])
        for number in (signal.SIGTERM, signal.SIGINT):
            # Uvicorn re-raises the signals for earlier handlers, and would end before the log handler.
            signal.signal(number, server.handle_exit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        server.run([listener])


def _raise_open_file_limit() -> None:
    """As many connections as the system allows, where a shell allows fewer."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a Mac has no limit that it lets us ask for
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def create_server(settings: Settings, observers: Sequence[Observer]) -> uvicorn.Server:
    """The server of one process; its engines are opened once it runs."""
    app = create_app(settings)
    fast_path = FastPath(lambda: app.state.service, observers)
    return _Server(
        uvicorn.Config(
            RequestMiddleware(app, observers),
            http=partial(FastConnection, fast_path),  # type: ignore[arg-type]  # called, whatever it is
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=ANSWER_TIMEOUT_SECONDS,
        )
    )


class _Server(uvicorn.Server):
    """Lets clients go that take too long."""

    _checked_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """See Uvicorn's, which calls this ten times a second."""
        now = time.monotonic()
        if now - self._checked_at >= TIMEOUT_CHECK_SECONDS:
            self._checked_at = now
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.check_timeouts(now)
        return await super().on_tick(counter)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_parent() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_parent, name="parent", daemon=True).start()


def _ensure_repeatedly(ensure_engines: Callable[[], object]) -> None:
    while True:
        try:
            ensure_engines()
        except InstaChatError as error:
            logger.warning("%s", error.message)
        time.sleep(ENSURE_INTERVAL_SECONDS)
