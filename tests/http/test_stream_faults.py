"""Followers that connect again are told of each number once and in order, whatever is killed meanwhile."""

import os
import random
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import PostgresServer, RedisServer, wheel_postgres
from tests.support.faults.followers import followed_installation, wait_progress

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("http")]

ROUNDS = int(os.environ.get("INSTACHAT_FOLLOWER_ROUNDS", "3"))
"""So many faults in a test run; a hundred take about ten minutes."""


@pytest.mark.timeout(60 * ROUNDS + 600)
def test_followers_miss_and_repeat_nothing_under_random_faults(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """A ledger of the answers and the stored messages decide; a failure names the seed."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    faults: list[str] = []
    postgres = PostgresServer(wheel_postgres())
    try:
        postgres.start()
        settings = Settings(
            database_url=Engines(postgres, own_redis).fresh_database(),
            redis_url=own_redis.url,
            log_limit=1_000_000,
        )
        with followed_installation(settings, postgres, own_redis, tmp_path) as made:
            for _ in range(ROUNDS):
                faults.append(made.disturb(dice))
                wait_progress(made, 20)
            wrong = made.finish()
        assert not wrong, (seed, faults, wrong)
    finally:
        postgres.remove()
