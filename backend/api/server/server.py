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

import uvicorn

from backend.api.app import create_app
from backend.api.health import process_metrics
from backend.api.middleware import Edge, Observe
from backend.api.server import logs
from backend.api.server.address import BACKLOG, bound
from backend.api.server.connection import LOOK_SECONDS, Connection
from backend.api.server.fast_path import FastConnection, Lane
from backend.api.server.processes import keep_up
from backend.domain.errors import InstaChatError
from backend.settings import Settings

SWITCH_SECONDS = (
    0.0005  # a tenth of Python's own: the core's threads get their turn beside a busy loop
)
TICK_SECONDS = 1.0
ENDS_WITHIN = 8  # seconds; a process that is still there by then is killed
ANSWERS_WITHIN = 6  # of that; what is not answered by then is cut off

logger = logging.getLogger(__name__)


def serve(settings: Settings, processes: int, tick: Callable[[], object] | None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, which finish what is under way. In the main thread only.

    `tick` is called once a second meanwhile, by a thread. Raises Failed if the address can't be used, or if
    the processes die as soon as they are started.
    """

    def close() -> None:  # who comes from now on is refused
        for one in sockets:
            one.close()

    # A socket each, so that the kernel shares out the connections; one that has just died is waited for.
    sockets = bound(settings.host, settings.port, processes)
    if tick is not None:
        threading.Thread(target=_tick, args=(tick,), name="tick", daemon=True).start()
    with process_metrics.shared():
        keep_up(
            [partial(_start, settings, one) for one in sockets],
            ends_within=ENDS_WITHIN,
            closing=close,
        )


def _start(settings: Settings, listening: socket.socket) -> BaseProcess:
    # Not by forking: what this process has open is its own.
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(settings, listening), name="server"
    )
    process.start()
    return process


def _serve(settings: Settings, listening: socket.socket) -> None:
    """All that a process of the server does."""
    _raise_limit()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the one that started it is told, and tells it
    _end_with_parent()
    sys.setswitchinterval(SWITCH_SECONDS)
    with closing(logs.configure()) as diary:
        server = made(settings, [diary.request, process_metrics.observe])
        for number in (signal.SIGTERM, signal.SIGINT):
            # Uvicorn passes on to who was here before what it has heard, and would end before the diary.
            signal.signal(number, server.handle_exit)
        server.run([listening])


def _raise_limit() -> None:
    """As many connections as the system allows, where a shell allows fewer."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a Mac has no limit that it lets us ask for
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def made(settings: Settings, observers: Sequence[Observe]) -> uvicorn.Server:
    """The server of one process; its engines are opened once it runs."""
    app = create_app(settings)
    lane = Lane(lambda: app.state.service, observers)
    return _Server(
        uvicorn.Config(
            Edge(app, observers),
            http=partial(FastConnection, lane),  # type: ignore[arg-type]  # called, whatever it is
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=ANSWERS_WITHIN,
        )
    )


class _Server(uvicorn.Server):
    """Lets clients go that take too long."""

    _looked = 0.0

    async def on_tick(self, counter: int) -> bool:
        """See Uvicorn's, which calls this ten times a second."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.look(now)
        return await super().on_tick(counter)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _tick(tick: Callable[[], object]) -> None:
    while True:
        try:
            tick()
        except InstaChatError as error:
            logger.warning("%s", error.message)
        time.sleep(TICK_SECONDS)
