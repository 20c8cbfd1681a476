"""Faults of a Redis Cluster under load. The ledger decides: whatever was answered is stored, once.

The short form kills one master once. INSTACHAT_CLUSTER_SEEDS=7,8 runs these seeds of the long form: masters
that are killed and masters that hang, three times each.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import uvloop

from backend.bootstrap import open_backend
from backend.domain.model import shard_of
from backend.settings import Settings
from backend.storage.redis.keys import shard_slot
from tests.conftest import Engines
from tests.support.faults.cluster_writers import ClusterWriters
from tests.support.faults.load import Load, drain_completely, under_load
from tests.support.faults.scale_table import Record, record_audit, record_load
from tests.support.ledger import audit
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.waiting import wait_until

GIVEN = os.environ.get("INSTACHAT_CLUSTER_SEEDS", "")
SEEDS = [int(seed) for seed in (GIVEN or "1").split(",")]
ROUNDS = 3 if GIVEN else 1  # faults of one load
APPLICATIONS = 6
ANSWERS = 200  # between two faults
pytestmark = [
    pytest.mark.faults,
    pytest.mark.xdist_group("redis cluster"),
    pytest.mark.parametrize("seed", SEEDS),
]


class ClusterLoad:
    """A load on a cluster, and the slots that it uses."""

    def __init__(self, cluster: RedisCluster, load: Load, seed: int) -> None:
        self.load = load
        self._cluster = cluster
        self._dice = random.Random(seed)
        with open_backend(load.settings) as backend:
            shards = backend.database.installation.shards
        self._slots = {shard_slot(shard_of(token, shards)) for token in load.tokens}

    def choose(self) -> tuple[ClusterNode, set[int]]:
        """A master that the load uses, and which slots of it."""
        node = self._cluster.master_of(self._dice.choice(sorted(self._slots)))
        return node, {slot for slot in self._slots if self._cluster.master_of(slot) is node}


@contextmanager
def cluster_load(
    settings: Settings, cluster: RedisCluster, folder: Path, seed: int, *, works: bool
) -> Iterator[ClusterLoad]:
    """A load that has begun, with a worker or without one."""
    with under_load(settings, folder, APPLICATIONS) as load:
        if works:
            load.work()
        load.write(processes=2, writers=3)
        load.wait_for_answers(ANSWERS)
        yield ClusterLoad(cluster, load, seed)


def audit_load(load: Load, record: Record, outage_seconds: float | None = None) -> None:
    """End the load: nothing was lost, repeated or changed, and the stores agree."""
    with load.ended() as backend:
        result = load.compare(backend)
        record_load(record, load, result, outage_seconds)
        assert result.faults == {}
        assert result.answered > ANSWERS
        assert list(backend.dead_letters.all()) == []
        assert list(backend.reconciler.begin().findings()) == []


FAULTS: dict[str, Callable[[ClusterNode], None]] = {
    "is killed": ClusterNode.kill,
    "hangs": ClusterNode.suspend,
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=pytest.mark.scale(f"Redis Cluster: a master {name}"))
        for name in (FAULTS if GIVEN else ["is killed"])
    ],
)
def test_a_master_that_fails_loses_no_answered_message(
    engines: Engines,
    redis_cluster: RedisCluster,
    tmp_path: Path,
    seed: int,
    fault: str,
    record_property: Record,
) -> None:
    """Its replica has on its disk what was answered. Nothing is stored meanwhile, so all of it counts."""
    settings = engines.on_cluster(redis_cluster, durable_replicas=1)
    with cluster_load(settings, redis_cluster, tmp_path, seed, works=False) as running:
        outages = []
        for _ in range(ROUNDS):
            node, slots = running.choose()
            FAULTS[fault](node)
            since = time.monotonic()
            running.load.wait_for_answers(ANSWERS // 10)  # of the other nodes
            wait_until(partial(redis_cluster.serves, slots))
            outages.append(time.monotonic() - since)
            redis_cluster.heal()  # the node becomes a replica, without which nothing is answered
            running.load.wait_for_every_application()
        audit_load(running.load, record_property, max(outages))


@pytest.mark.scale("Redis Cluster: slots move (CLUSTER MIGRATESLOTS)")
def test_slots_that_migrate_lose_nothing(
    engines: Engines,
    redis_cluster: RedisCluster,
    tmp_path: Path,
    seed: int,
    record_property: Record,
) -> None:
    """All applications of a master move to another one, while messages are stored."""
    settings = engines.on_cluster(redis_cluster)
    with cluster_load(settings, redis_cluster, tmp_path, seed, works=True) as running:
        for _ in range(ROUNDS):
            node, slots = running.choose()
            target = next(master for master in redis_cluster.masters if master is not node)
            redis_cluster.migrate(slots, target)
            running.load.wait_for_every_application()
        audit_load(running.load, record_property)


@pytest.mark.scale("Redis Cluster: slots move (CLUSTER MIGRATESLOTS)")
def test_a_server_loses_nothing_while_slots_migrate(
    engines: Engines,
    redis_cluster: RedisCluster,
    tmp_path: Path,
    seed: int,
    record_property: Record,
) -> None:
    """A server calls one script for all shards of a node, of which some move."""
    dice = random.Random(seed)
    with open_backend(engines.on_cluster(redis_cluster)) as backend:
        writers = ClusterWriters(backend, tmp_path)

        async def migrate() -> None:
            for _ in range(2 * ROUNDS):
                await writers.wait_for_answers(1)
                slots = {shard_slot(backend.counters.shard(token)) for token in writers.tokens}
                node = redis_cluster.master_of(dice.choice(sorted(slots)))
                of_node = [slot for slot in sorted(slots) if redis_cluster.master_of(slot) is node]
                moving = set(dice.sample(of_node, (len(of_node) + 1) // 2))
                target = next(master for master in redis_cluster.masters if master is not node)
                await asyncio.to_thread(redis_cluster.migrate, moving, target)

        uvloop.run(writers.run(migrate))
        assert not backend.log.must_declare_keys
        drain_completely(backend)
        found = audit(backend, list(tmp_path.glob("ledger-*")))
        assert list(backend.dead_letters.all()) == []
    record_audit(record_property, found)
    assert found.faults == {}
