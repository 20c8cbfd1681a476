"""Profiles the event loop of a server under load on a hot route."""

import asyncio
import cProfile
from collections.abc import Sequence

import uvloop

from backend.api.serve import create_server
from backend.api.server.address import open_listeners
from backend.settings import Settings
from instachat_cli.bench.harness.paired_run import largest_parts
from instachat_cli.bench.harness.servers import wrk

SECONDS = 2
POLL_SECONDS = 0.05


def profile_server(settings: Settings, paths: Sequence[str], method: str) -> str:
    """The largest parts of the event loop's time for such requests, without the background observers."""
    return uvloop.run(_profile(settings, paths, method))


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
