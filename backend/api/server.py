"""The HTTP server: one or more processes on one port, by Granian.

Each is started anew when it dies, and ends with the process that started it.
"""

import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing.connection import wait
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server

from backend.api import logs, measures
from backend.api.app import create_app, served
from backend.errors import Failed
from backend.settings import load, variable

HEADER_SECONDS = 10  # a client that takes longer for its headers is let go
CONNECTIONS = 16_384  # of one process
ENDS_WITHIN = 8  # seconds; what a process has not answered by then is cut off


def serve(host: str, port: int, processes: int) -> None:
    """Serve until SIGTERM or SIGINT, which finish what is under way. In the main thread only.

    Raises Failed if the address can't be used. Settings are the environment's.
    """
    _check_free(host, port)
    # Not by forking: what this process has open is its own.
    multiprocessing.set_start_method("spawn", force=True)
    server = Server(
        "instachat",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=processes,
        loop=Loops.auto,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
        websockets=False,
        backlog=2048,
        backpressure=CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=ENDS_WITHIN,
        log_enabled=False,
    )
    with measures.shared():
        server.serve(target_loader=application, wrap_loader=False)


def application() -> Any:
    """The ASGI application of a process of the server's."""
    _end_with_parent()
    diary = logs.configure()
    return served(create_app(load()), [diary.request, measures.observe])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _check_free(host: str, port: int) -> None:
    """Granian's processes share a port, and would share it with a stranger, too."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise Failed(
            f"can't listen on {host} port {port}: {(error.strerror or str(error)).lower()}",
            f"choose another by --port or {variable('port')}",
        ) from None
