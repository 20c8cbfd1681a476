"""Clocks that are an hour ahead or behind, and jump, on the machines of a worker, a server and Redis."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.model import Parent
from backend.monitoring.status import read_status
from backend.settings import Settings
from backend.storage.redis.keys import WORKERS_KEY
from backend.storage.redis.workers import Workers
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.faults.clock import CAN_BE_MOVED, MovedClock
from tests.support.faults.load import drain_completely
from tests.support.faults.shortcuts import send, stored

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not CAN_BE_MOVED, reason="a C compiler moves a program's clock"),
]
HOUR = 3600


@pytest.fixture
def redis_clock(tmp_path: Path) -> MovedClock:
    """The clock of `moved_redis`."""
    return MovedClock(tmp_path)


@pytest.fixture
def settings(engines: Engines, redis_clock: MovedClock) -> Iterator[Settings]:
    """Settings on a new database, and on a Redis whose clock can be moved."""
    server = RedisServer(valkey_binary())
    server.command = redis_clock.prefix + server.command
    try:
        server.start()
        yield (settings := engines.settings().model_copy(update={"redis_url": server.url}))
        engines.drop_database(settings)
    finally:
        server.remove()


HEARTBEAT = """
import sys
from backend.storage.redis.workers import Workers
Workers(sys.argv[1]).record_heartbeat(sys.argv[2])"""


def test_workers_with_wrong_clocks_are_known_to_run(settings: Settings, tmp_path: Path) -> None:
    """Otherwise `status` says that none runs, or one that has ended; and requests drain by themselves."""
    clock = MovedClock(tmp_path)
    with closing(Workers(str(settings.redis_url))) as workers:
        for nth, seconds in enumerate((0, HOUR, -HOUR)):
            clock.move(seconds)
            command = [sys.executable, "-c", HEARTBEAT, workers.url, f"worker {nth}"]
            subprocess.run(command, env=os.environ | clock.environment, check=True)
        heartbeats: Any = workers.redis.zrange(WORKERS_KEY, 0, -1, withscores=True)
        assert len(heartbeats) == 3
        assert all(abs(at - time.time()) < HOUR / 2 for _, at in heartbeats)
        assert workers.state().are_running


def test_nothing_is_lost_or_forgotten_when_the_clock_of_redis_jumps(
    backend: Backend, chat: str, redis_clock: MovedClock
) -> None:
    """An hour ahead and back, twice: each message is stored, and each count is written by the next sync."""
    expected = {}
    for turn, seconds in enumerate((0, HOUR, 0, -HOUR, 0)):
        redis_clock.move(seconds)
        for n in range(3):
            text = f"{turn} {n}"
            expected[send(backend, chat, text)] = text
        status = read_status(backend.database, backend.log, backend.workers, backend.jobs.length)
        assert status.oldest_seconds is not None
        assert status.oldest_seconds < HOUR / 2
        drain_completely(backend)
        assert stored(backend, chat) == expected
        written = {count.parent: count.new for count in backend.counter_sync.sync()}
        assert written[Parent(chat, 1)] == len(expected)
        assert backend.counter_sync.lag() < HOUR / 2
        assert not list(backend.reconciler.begin().findings())
