"""An asynchronous standby that is behind is promoted under load: nothing that was answered is lost.

The short form is a standby that is behind for a second or two. `make standby` promotes five of them that are
up to a minute behind. INSTACHAT_STANDBY_SEEDS=7,8 runs these seeds, INSTACHAT_STANDBY_SECONDS=10 has the
standby up to so far behind.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backend.bootstrap import Backend, open_backend
from backend.settings import Settings
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.engines import PostgresServer, RedisServer, wheel_postgres
from tests.support.faults.load import under_load
from tests.support.faults.proxy import Proxy
from tests.support.faults.scale_table import Record, record_load
from tests.support.faults.standby import SOCKET, Standby
from tests.support.ledger import audit

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("standby")]

SEEDS = [int(seed) for seed in os.environ.get("INSTACHAT_STANDBY_SEEDS", "1").split(",")]
SECONDS = float(os.environ.get("INSTACHAT_STANDBY_SECONDS", "2"))
ANSWERS = 100  # between two steps, at least


@contextmanager
def failing_over(
    own_redis: RedisServer,
) -> Iterator[tuple[Settings, Proxy, PostgresServer, Standby]]:
    """An installation on a PostgreSQL behind a proxy, and its standby."""
    with ExitStack() as stack:
        primary = PostgresServer(wheel_postgres())
        stack.callback(primary.remove)
        primary.start()
        primary.execute("CREATE DATABASE test")
        database = Database(primary.direct_url("test"))
        upgrade(database)
        database.close()
        standby = Standby(primary)
        stack.callback(standby.remove)
        standby.start()
        standby.wait_streaming(primary)
        proxy = Proxy(primary.folder / SOCKET)
        stack.callback(proxy.close)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/test"
        yield Settings(database_url=url, redis_url=own_redis.url), proxy, primary, standby


@pytest.mark.scale("PostgreSQL: a standby that is up to a minute behind is promoted")
@pytest.mark.timeout(600 + 3 * SECONDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_standby_that_is_behind_is_promoted_under_load(
    own_redis: RedisServer, tmp_path: Path, seed: int, record_property: Record
) -> None:
    """Every answered message, chat, application and name is there, once; and no count differs."""
    dice = random.Random(seed)
    with (
        failing_over(own_redis) as (settings, proxy, primary, standby),
        under_load(settings, tmp_path, applications=3) as load,
    ):
        load.write(processes=1, writers=4)
        load.work()
        load.wait_for_answers(ANSWERS)
        standby.fall_behind()
        until = time.monotonic() + dice.uniform(SECONDS / 2, SECONDS)
        load.wait_for_answers(ANSWERS)
        with open_backend(settings) as backend:
            created = backend.catalog.applications.create("new").token
            backend.catalog.applications.rename(load.tokens[0], "renamed")
        time.sleep(max(until - time.monotonic(), 0))  # how far it is behind
        load.wait_for_answers(ANSWERS)
        primary.kill()
        standby.promote()
        proxy.lead_to(standby.socket)
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
