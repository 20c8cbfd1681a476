"""`instachat serve`: starts the server's processes, and puts together what each of them runs."""

import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running

import uvicorn

from backend.api.app import create_app
from backend.api.headers import Observer
from backend.api.health import process_metrics
from backend.api.middleware import RequestMiddleware
from backend.api.server import logs, server
from backend.api.server.address import open_listeners, url
from backend.api.server.fast_path import FastPath
from backend.api.server.processes import supervise
from backend.monitoring.repeated_checks import RepeatedChecks
from backend.runtime.signals import terminate_after
from backend.settings import Settings

logger = logging.getLogger(__name__)
STOP_TIMEOUT_SECONDS = 8  # then a process is killed; must exceed `server.ANSWER_TIMEOUT_SECONDS`


def serve(settings: Settings, processes: int, checks: RepeatedChecks) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish the running requests. Main thread only.

    A thread repeats `checks`. If one raises SchemaMismatch, the server stops in the same way, and this raises
    it. Raises Failed if the address can't be used, or if the processes exit as soon as they are started.
    """

    def close_listeners() -> None:  # from now on new connections are refused
        for listener in listeners:
            listener.close()

    # One socket for each process: the kernel distributes the connections. This process keeps them open, so
    # that connections to a process that has died wait for its successor.
    listeners = open_listeners(settings.host, settings.port, processes)
    logger.info("listening on %s", url(settings.host, settings.port))
    terminate_after(checks.run, "checks")
    with process_metrics.share_metrics():
        supervise(
            [partial(_start_process, settings, listener) for listener in listeners],
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
            on_stop=close_listeners,
        )
    if checks.failure:
        raise checks.failure


def create_server(settings: Settings, observers: Sequence[Observer]) -> uvicorn.Server:
    """The server of one process, which opens its engines when it runs."""
    app = create_app(settings)
    headers = [(b"vary", b"Origin")] if settings.cors_origins else []  # as CORSMiddleware does
    fast_path = FastPath(lambda: app.state.service, observers, headers)

    def end_streams() -> None:
        app.state.service.end_streams()

    return server.create_server(RequestMiddleware(app, observers), fast_path, end_streams)


def _start_process(settings: Settings, listener: socket.socket) -> BaseProcess:
    # Spawned, not forked: a fork would share this process's open connections.
    process = multiprocessing.get_context("spawn").Process(
        target=_run_process, args=(settings, listener), name="server"
    )
    # Ctrl-C reaches every process on the terminal. A child that is still loading modules would end with a
    # traceback, so SIGINT stays blocked in it until `server.run` has installed its handlers. Starting
    # multiprocessing's resource tracker unblocks SIGINT here, so the tracker is started first.
    ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run_process(settings: Settings, listener: socket.socket) -> None:
    """The main function of a process of the server."""
    server.prepare_process()
    with closing(logs.configure()) as log_handler:
        observers = [log_handler.log_request, process_metrics.observe]
        try:
            server.run(create_server(settings, observers), listener)
        except Exception:
            logger.exception("a process of the server failed")
            sys.exit(1)
