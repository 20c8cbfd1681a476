"""A master of a cluster is killed under load: with INSTACHAT_DURABLE_REPLICAS, its replica has every answer.

INSTACHAT_CLUSTER_SEEDS=7,8 kills masters with these seeds, one after another.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest
import uvloop

from backend.bootstrap import Backend, open_unchecked
from tests.conftest import Engines
from tests.support.faults.cluster_writers import WRITERS, ClusterWriters
from tests.support.faults.load import drain_completely
from tests.support.faults.scale_table import Record, record_audit
from tests.support.ledger import audit
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]

SEEDS = [int(seed) for seed in os.environ.get("INSTACHAT_CLUSTER_SEEDS", "1").split(",")]
REPLY_SECONDS = 3.0


@pytest.mark.scale("Redis Cluster: a master is killed, and its replica, which lags, restarts")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_master_loses_no_answer_that_replicas_have(
    engines: Engines,
    redis_cluster: RedisCluster,
    tmp_path: Path,
    seed: int,
    record_property: Record,
) -> None:
    """Nothing was stored before, so only Redis has the messages. A replica that has lagged takes over."""
    dice = random.Random(seed)
    settings = engines.on_cluster(redis_cluster, durable_replicas=1)

    async def scenario(backend: Backend) -> None:
        writers = ClusterWriters(backend, tmp_path)

        async def kill_a_master() -> None:
            # Nodes are not started in a thread, with whose end they would end.
            await writers.wait_for_answers(dice.randint(1, 10))
            master = dice.choice(redis_cluster.masters)
            (replica,) = redis_cluster.replicas_of(master)
            replica.suspend()
            await asyncio.sleep(dice.random())
            master.kill()
            replica.kill()  # so that it does not read either what its connection has received
            replica.start()
            await asyncio.to_thread(wait_until, lambda: replica in redis_cluster.masters)
            master.start()  # as the replica that the other one needs now

        await asyncio.wait_for(writers.run(kill_a_master), PATIENCE_SECONDS)

    with open_unchecked(settings, reply_timeout_seconds=REPLY_SECONDS) as backend:
        uvloop.run(scenario(backend))
        redis_cluster.heal()
        drain_completely(backend)
        found = audit(backend, list(tmp_path.glob("ledger-*")))
    record_audit(record_property, found)
    assert found.answered >= 2 * WRITERS
    assert found.faults == {}
