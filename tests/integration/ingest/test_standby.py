"""PostgreSQL goes back in time under load: nothing that was answered is lost.

The short form promotes an asynchronous standby that is behind for a second or two. `make standby` promotes
five of them that are up to a minute behind, and five times restores a dump that is as old.
INSTACHAT_STANDBY_SEEDS=7,8 runs these seeds of both, INSTACHAT_STANDBY_SECONDS=10 has PostgreSQL go back
so far.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from backend.bootstrap import Backend, open_backend
from backend.settings import Settings
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.engines import PostgresServer, RedisServer, running, wheel_postgres
from tests.support.faults.live_dump import LiveDump
from tests.support.faults.load import under_load
from tests.support.faults.proxy import Proxy
from tests.support.faults.scale_table import Record, record_load
from tests.support.faults.standby import SOCKET, Standby
from tests.support.ledger import audit

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("standby")]

GIVEN = os.environ.get("INSTACHAT_STANDBY_SEEDS", "")
SECONDS = float(os.environ.get("INSTACHAT_STANDBY_SECONDS", "2"))
ANSWERS = 100  # between two steps, at least
DATABASE = "test"


class Past(NamedTuple):
    """An installation whose PostgreSQL can go back in time."""

    settings: Settings
    remember: Callable[[], object]
    """Keeps the state of this moment."""
    go_back: Callable[[], object]
    """Brings that state back."""


def new_database(server: PostgresServer) -> None:
    server.execute(f"CREATE DATABASE {DATABASE}")
    database = Database(server.direct_url(DATABASE))
    upgrade(database)
    database.close()


@contextmanager
def standby_is_behind(own_redis: RedisServer) -> Iterator[Past]:
    """A PostgreSQL behind a proxy, and its standby, which is promoted."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(PostgresServer(wheel_postgres())))
        new_database(primary)
        standby = Standby(primary)
        stack.callback(standby.remove)
        standby.start()
        standby.wait_streaming(primary)
        proxy = Proxy(primary.folder / SOCKET)
        stack.callback(proxy.close)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{DATABASE}"

        def fail_over() -> None:
            primary.kill()
            standby.promote()
            proxy.lead_to(standby.socket)

        settings = Settings(database_url=url, redis_url=own_redis.url)
        yield Past(settings, standby.fall_behind, fail_over)


@contextmanager
def dump_is_older(own_redis: RedisServer) -> Iterator[Past]:
    """A PostgreSQL, and a dump of its database, which is restored."""
    with running(PostgresServer(wheel_postgres())) as server:
        new_database(server)
        dump = LiveDump(server, DATABASE)
        settings = Settings(database_url=server.direct_url(DATABASE), redis_url=own_redis.url)
        yield Past(settings, dump.make, dump.restore)


PASTS = {
    standby_is_behind: "PostgreSQL: a standby that is up to a minute behind is promoted",
    dump_is_older: "PostgreSQL: an older dump is restored",
}
SEEDS = [
    pytest.param(past, int(seed), marks=pytest.mark.scale(row), id=f"{past.__name__}-{seed}")
    for past, row in PASTS.items()
    for seed in filter(None, (GIVEN or "1" * (past is standby_is_behind)).split(","))
]


@pytest.mark.timeout(600 + 3 * SECONDS)
@pytest.mark.parametrize(("past", "seed"), SEEDS)
def test_postgresql_goes_back_in_time_under_load(
    past: Callable[[RedisServer], AbstractContextManager[Past]],
    own_redis: RedisServer,
    tmp_path: Path,
    seed: int,
    record_property: Record,
) -> None:
    """Every answered message, chat, application and name is there, once; and no count differs."""
    dice = random.Random(seed)
    with (
        past(own_redis) as (settings, remember, go_back),
        under_load(settings, tmp_path, applications=3) as load,
    ):
        load.write(processes=1, writers=4)
        load.work()
        load.wait_for_answers(ANSWERS)
        remember()
        until = time.monotonic() + dice.uniform(SECONDS / 2, SECONDS)
        load.wait_for_answers(ANSWERS)
        with open_backend(settings) as backend:
            created = backend.catalog.applications.create("new").token
            backend.catalog.applications.rename(load.tokens[0], "renamed")
        time.sleep(max(until - time.monotonic(), 0))  # how far PostgreSQL goes back
        load.wait_for_answers(ANSWERS)
        go_back()
        load.wait_for_answers(ANSWERS)
        with load.ended() as backend:
            assert not load.refusals["NotFound"], "what was given was not there"
            found = audit(backend, load.ledgers)
            record_load(record_property, load, found)
            assert found.faults == {}
            assert found.answered > 4 * ANSWERS
            assert backend.catalog.applications.get(created).name == "new"
            assert backend.catalog.applications.get(load.tokens[0]).name == "renamed"
            assert list(backend.reconciler.begin().findings()) == []
            assert lost(backend) == 0


def lost(backend: Backend) -> int:
    """How many numbers the log could not fill in; fails if nothing has noticed that PostgreSQL went back."""
    with backend.database.connect() as connection:
        found = shards.last_rewind(connection)
    assert found is not None
    return found.lost
