"""Profiles the event loop of a server under load on a hot route."""

import asyncio
import cProfile
from collections.abc import Sequence
from dataclasses import replace

import uvloop

from backend.api.serve import create_server
from backend.api.server.address import open_listeners
from backend.settings import Settings
from instachat_cli.bench.harness.paired_run import Row, largest_parts
from instachat_cli.bench.harness.servers import wrk

SECONDS = 2
POLL_SECONDS = 0.05


def profiled(row: Row, settings: Settings, paths: Sequence[str], method: str) -> Row:
    """The row; if it missed its goal, with the largest parts of the event loop's time for such requests.

    Without the server's background observers.
    """
    if row.needs_no_profile:
        return row
    return replace(row, profile=uvloop.run(_profile(settings, paths, method)))


async def _profile(settings: Settings, paths: Sequence[str], method: str) -> str:
    listening = open_listeners("127.0.0.1", 0, 1)[0]
    port: int = listening.getsockname()[1]
    server = create_server(settings, [])
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(POLL_SECONDS)
    measured = cProfile.Profile()
    measured.enable()
    await asyncio.to_thread(wrk, port, paths, SECONDS, method)
    measured.disable()
    server.should_exit = True
    await serving
    return largest_parts(measured)
