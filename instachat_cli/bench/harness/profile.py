"""Profiles the event loop of a server under load on a hot route."""

import asyncio
import cProfile
from collections.abc import Callable, Sequence
from dataclasses import replace

import uvloop

from backend.api.serve import create_server
from backend.api.server.address import open_listeners
from backend.settings import Settings
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Row, largest_parts
from instachat_cli.bench.harness.servers import CONNECTIONS, wrk

POLL_SECONDS = 0.05


def profiled(
    row: Row,
    env: Environment,
    paths: Sequence[str],
    method: str,
    connections: int = CONNECTIONS,
) -> Row:
    """The row; if it missed its goal, with the largest parts of the event loop's time for such requests.

    Without the server's background observers.
    """
    if row.needs_no_profile:
        return row

    def send_load(port: int) -> None:
        wrk(port, paths, env.scale.seconds, method, connections)

    return replace(row, profile=uvloop.run(profile_server(env.backend.settings, send_load)))


async def profile_server(settings: Settings, send_load: Callable[[int], object]) -> str:
    """The largest parts of the event loop's time while `send_load` loads the server on a port."""
    listening = open_listeners("127.0.0.1", 0, 1)[0]
    port: int = listening.getsockname()[1]
    server = create_server(settings, [])
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(POLL_SECONDS)
    measured = cProfile.Profile()
    measured.enable()
    try:
        await asyncio.to_thread(send_load, port)
    finally:
        measured.disable()
        server.should_exit = True
        await serving
    return largest_parts(measured)
