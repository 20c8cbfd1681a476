"""The HTTP server: one or more processes on one port, by Granian.

Each is started anew when it dies, and ends with the process that started it.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.server import Server
from starlette.types import ASGIApp

from backend.api import logs, measures
from backend.api.address import check_free
from backend.api.app import create_app, served
from backend.errors import Failed, InstaChatError
from backend.settings import Settings

HEADER_SECONDS = 10  # a client that takes longer for its headers is let go
CONNECTIONS = 16_384  # of one process
SWITCH_SECONDS = (
    0.0005  # a tenth of Python's own: the core's threads get their turn beside a busy loop
)
TICK_SECONDS = 1.0
ENDS_WITHIN = 8  # seconds; what a process has not answered by then is cut off

logger = logging.getLogger(__name__)


def serve(settings: Settings, processes: int, tick: Callable[[], object] | None) -> None:
    """Serve until SIGTERM or SIGINT, which finish what is under way. In the main thread only.

    `tick` is called once a second meanwhile, by a thread. Raises Failed if the address can't be used, or if
    the processes die as soon as they are started.
    """
    check_free(settings.host, settings.port)
    # Not by forking: what this process has open is its own.
    multiprocessing.set_start_method("spawn", force=True)
    server = Server(
        "instachat",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=processes,
        loop=Loops.auto,
        runtime_mode=RuntimeModes.mt,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
        websockets=False,
        backlog=2048,
        backpressure=CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=ENDS_WITHIN,
        log_enabled=False,
    )
    # Granian takes a closed terminal for a wish to begin anew.
    server.on_startup(lambda: signal.signal(signal.SIGHUP, server.signal_handler_interrupt))
    if tick is not None:
        threading.Thread(target=_tick, args=(tick,), name="tick", daemon=True).start()
    try:
        with measures.shared():
            server.serve(target_loader=partial(application, settings), wrap_loader=False)
    except SystemExit:
        raise Failed(
            "the server's processes end as soon as they are started", "the log above says why"
        ) from None


def application(settings: Settings) -> ASGIApp:
    """The ASGI application of a process of the server's."""
    _end_with_parent()
    sys.setswitchinterval(SWITCH_SECONDS)
    diary = logs.configure()
    return served(create_app(settings), [diary.request, measures.observe])


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
