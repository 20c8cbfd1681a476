"""The cluster that other tests use: it fails over, heals, and moves slots."""

from collections.abc import Iterator

import pytest

from tests.conftest import skip_absent
from tests.support.engines import redis_binary
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import wait_until


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """A cluster of Redis 7: many other tests use one of Valkey."""
    binary = redis_binary()
    if binary is None:
        skip_absent("Redis 7")
    assert binary
    cluster = RedisCluster(binary)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.mark.faults
def test_a_cluster_fails_over_heals_and_moves_slots(cluster: RedisCluster) -> None:
    """Its keys stay, and every node is ready again."""
    with cluster.client() as client:
        for number in range(50):
            client.set(f"key{number}", number)

    slot = cluster.slot("key7")
    source, *others = [cluster.master_of(slot), *cluster.masters]
    target = next(node for node in others if node is not source)
    cluster.move(slot, target)
    assert cluster.master_of("key7") is target

    (replica,) = cluster.replicas_of(target)
    target.suspend()
    wait_until(lambda: replica in cluster.masters)
    victim = next(node for node in cluster.masters if node is not replica)
    victim.kill()
    cluster.heal()
    assert len(cluster.masters) == 3
    assert cluster.replicas_of(replica) == [target]

    with cluster.client() as client:
        assert [client.get(f"key{number}") for number in range(50)] == [str(n) for n in range(50)]
    assert cluster.masters[0].ask("INFO", "memory")["used_memory"] < 20_000_000
