"""A server and a worker on their own database and Redis, shared by the tests of the routes."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.conftest import Engines
from tests.support.engines import PostgresServer, RedisServer, valkey_binary, wheel_postgres
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.http_server import ApplicationClient, HttpServer, ImpatientServer, running_server

OPERATOR = "the operator's own token"


@pytest.fixture(scope="session")
def shared_server(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    """A running server with a worker behind it."""
    folder = tmp_path_factory.mktemp("http")
    redis = RedisServer(valkey_binary())
    redis.start()
    settings = Settings(
        database_url=engines.fresh_database(), redis_url=redis.url, admin_token=OPERATOR
    )
    server = HttpServer(settings, folder, admin_token=OPERATOR, cors_origins="https://a.example")
    try:
        with running_worker(server):
            yield server.wait_ready()
    finally:
        server.remove()
        redis.remove()


def start_worker(server: HttpServer) -> ForkedProcess:
    """A worker on a server's engines."""
    return start_module(
        "instachat_cli", "worker", environment=server.env, stderr=subprocess.DEVNULL
    )


@contextmanager
def running_worker(server: HttpServer) -> Iterator[None]:
    """A worker on a server's engines, which is killed at the end."""
    worker = start_worker(server)
    try:
        yield
    finally:
        worker.kill()
        worker.wait()


@pytest.fixture
def app(shared_server: HttpServer) -> ApplicationClient:
    """A new application."""
    return ApplicationClient(shared_server)


@pytest.fixture
def own_server(engines: Engines, own_redis: RedisServer, tmp_path: Path) -> Iterator[HttpServer]:
    """A server for one test, without a worker, on a Redis that the test may stop."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with running_server(settings, tmp_path) as server:
        yield server


@pytest.fixture
def impatient_server(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> Iterator[HttpServer]:
    """A server for one test that gives up a slow client after five seconds, with a worker."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    server = ImpatientServer(settings, tmp_path)
    try:
        with running_worker(server):
            yield server.wait_ready()
    finally:
        server.remove()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that only this test uses and may stop."""
    server = PostgresServer(wheel_postgres())
    try:
        server.start()
        yield server
    finally:
        server.send_all(signal.SIGCONT)
        server.remove()


def migrated_database(postgres: PostgresServer) -> str:
    """The URL of a new database of a PostgreSQL."""
    postgres.execute("CREATE DATABASE own")
    database = Database(postgres.url("own"))
    upgrade(database)
    database.close()
    return postgres.url("own")
