"""One process of the server: Uvicorn with our connections, until it is told to stop."""

import logging
import multiprocessing
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait

import uvicorn
from starlette.types import ASGIApp

from backend.api.server.address import BACKLOG
from backend.api.server.connection import TIMEOUT_CHECK_SECONDS, Connection
from backend.api.server.fast_path import FastConnection, FastPath
from backend.runtime.signals import terminate_after

# A tenth of Python's default, so that the core's threads get their turn beside a busy event loop.
SWITCH_INTERVAL_SECONDS = 0.0005
# A stopping process cuts off the requests that take longer. The parent kills the process after
# `serve.STOP_TIMEOUT_SECONDS`, which must be greater.
ANSWER_TIMEOUT_SECONDS = 6


def create_server(
    application: ASGIApp, fast_path: FastPath, on_stop: Callable[[], object]
) -> uvicorn.Server:
    """The server of one process. It calls `on_stop` before it waits for the responses to end."""
    server = _Server(
        uvicorn.Config(
            application,
            http=partial(FastConnection, fast_path),  # type: ignore[arg-type]  # Uvicorn only calls it
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
    server.on_stop = on_stop
    return server


def prepare_process() -> None:
    """Set this process's limits, and make it stop with its parent. Before the server is created."""
    _raise_open_file_limit()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent gets it, too, and stops its processes
    if (parent := multiprocessing.parent_process()) is not None:
        terminate_after(lambda: wait([parent.sentinel]), "parent")
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, which may be blocked before. Main thread only."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Uvicorn re-raises the signals for the handlers that were installed before it. The default ones
        # would end the process before its log is written.
        signal.signal(number, server.handle_exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the parent until now
    server.run([listener])


def _raise_open_file_limit() -> None:
    """Allow as many connections as the system does, even if the shell's limit is lower."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS refuses an unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


class _Server(uvicorn.Server):
    """Disconnects clients that take too long, and ends streams when it stops."""

    on_stop: Callable[[], object]
    _checked_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn calls this ten times a second."""
        now = time.monotonic()
        if now - self._checked_at >= TIMEOUT_CHECK_SECONDS:
            self._checked_at = now
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.check_timeouts(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn calls this when it is told to stop."""
        self.on_stop()
        await super().shutdown(sockets)
