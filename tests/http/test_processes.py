"""The server's processes: one port, the end of a server, failed starts, and restarts."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.api.server.processes import supervise
from backend.domain.errors import Failed
from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import RedisServer
from tests.support.http_server import HttpServer, running_server, server_processes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("http")


def test_a_second_server_on_a_port_is_refused(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Even if both start at the same moment: otherwise each would get some of the requests."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    first = HttpServer(settings, tmp_path, "--workers", "2")
    second = HttpServer.__new__(HttpServer)
    second.__dict__.update(first.__dict__)
    second.start()
    try:
        wait_until(
            lambda: (
                None not in (first.process.poll(), second.process.poll())
                or _exactly_one_failed(first, second)
            )
        )
        assert "can't listen on" in first.stderr_text
        assert first.stderr_text.count('"listening on') <= 2
    finally:
        first.remove()
        second.remove()


def _exactly_one_failed(*servers: HttpServer) -> bool:
    return [server.process.poll() for server in servers].count(1) == 1


def test_the_last_requests_are_in_the_log(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Requests that are answered just before the server stops are logged."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with running_server(settings, tmp_path) as server:
        last = server("GET", "/nowhere").headers["x-request-id"]
        assert server.stop() == 0
        assert last in {line["request_id"] for line in server.requests}


def test_a_failed_start_leaves_no_process() -> None:
    """If the second process can't be started, the first is stopped and the error says so."""
    spawn = multiprocessing.get_context("spawn")
    first = spawn.Process(target=time.sleep, args=(60,))
    pids: list[int | None] = []

    def start() -> Any:
        first.start()
        pids.append(first.pid)
        return first

    def fail() -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    with pytest.raises(Failed, match="can't be started"):
        supervise([start, fail], stop_timeout_seconds=5)
    (pid,) = pids
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_killed_processes_are_restarted(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """All are killed repeatedly. SIGHUP, as from a closed terminal, then stops the server with code 0."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    server = HttpServer(settings, tmp_path, "--workers", "2")
    try:
        server.wait_ready()
        for _ in range(2):
            victims = server_processes(server)
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
            wait_until(lambda gone=victims: _all_replaced(server, gone))  # type: ignore[misc]
            assert server("GET", "/healthz").status == 200
        assert server.stop(signal.SIGHUP) == 0
        assert "server process was killed by signal 9; restarting" in server.stderr_text
    finally:
        server.remove()


def _all_replaced(server: HttpServer, gone: list[psutil.Process]) -> bool:
    now = server_processes(server)
    return len(now) == len(gone) and not {p.pid for p in now} & {p.pid for p in gone}
