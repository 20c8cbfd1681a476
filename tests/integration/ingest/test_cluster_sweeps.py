"""Sweeps over a cluster: if a shard's node is dead, the entries of the others are stored, and counted."""

from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import NodeDown
from backend.domain.model import Parent
from backend.ingest.kept_log import KeptLog
from backend.ingest.requests import AcceptRequest
from backend.maintenance import cascade_delete
from backend.monitoring.status import compute_rates, read_status, read_totals
from backend.reconcile.findings import FindingKind
from backend.storage.postgres import counter_columns, parents, reconciliations
from backend.storage.redis.keys import shard_key
from tests.conftest import Engines
from tests.integration.ingest.test_key_limit import check_that_keys_have_a_limit
from tests.support.engines import valkey_binary
from tests.support.faults import shortcuts
from tests.support.faults.older_dump import OlderDump
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.redis_values import plant_counter
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Masters without replicas: what one has is away with it."""
    # The time-out decides how soon a node that is back is part of the cluster; none can take over.
    cluster = RedisCluster(valkey_binary(), "--cluster-node-timeout", "1000", replicas=0)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def backend(engines: Engines, cluster: RedisCluster) -> Iterator[Backend]:
    """A new installation on the empty cluster, whose nodes run again at the end."""
    cluster.flush()
    with open_backend(engines.on_cluster(cluster)) as backend:
        yield backend
        cluster.heal()


@pytest.fixture
def tokens(backend: Backend, cluster: RedisCluster) -> dict[int, str]:
    """Applications, by shard, with a chat that is accepted and not stored: at least two of each node."""
    found: dict[int, str] = {}
    nodes: Counter[ClusterNode] = Counter()
    while len(nodes) < len(cluster.masters) or min(nodes.values()) < 2:
        token = backend.catalog.applications.create("x").token
        shard = backend.counters.shard(token)
        if shard not in found:
            found[shard] = token
            nodes[node_of(cluster, shard)] += 1
            backend.acceptor.accept(AcceptRequest.chats(token))
    return found


def node_of(cluster: RedisCluster, shard: int) -> ClusterNode:
    return cluster.master_of(shard_key(shard, "epoch"))


def stored(backend: Backend, tokens: dict[int, str]) -> set[int]:
    """The shards whose chat is stored."""
    with backend.database.connect() as connection:
        return {
            shard
            for shard, token in tokens.items()
            if parents.get_parent_state(connection, shard, Parent(token, 1)).exists
        }


def synced(backend: Backend, tokens: dict[int, str]) -> set[int]:
    """The shards whose application has its count of chats in SQL."""
    with backend.database.connect() as connection:
        counters = counter_columns.list_parent_counters(
            connection, [Parent(token) for token in tokens.values()]
        )
    return {shard for shard, token in tokens.items() if counters[Parent(token)].issued}


@pytest.mark.scale("Redis Cluster: a master is killed")
def test_a_dead_node_keeps_no_other_shard_from_being_stored(
    backend: Backend, tokens: dict[int, str], cluster: RedisCluster
) -> None:
    """Its own shards are stored once it is back; counts are synced likewise."""
    # No worker is running, so the creation of an application has drained its shard: what an earlier
    # application of that shard had accepted is stored already (see `ApplicationLog.record`).
    stored_before, synced_before = stored(backend, tokens), synced(backend, tokens)
    dead = node_of(cluster, min(tokens.keys() - stored_before))
    lost = {shard for shard in tokens if node_of(cluster, shard) is dead}
    dead.suspend()  # so that each call of it takes the longest time
    with pytest.raises(NodeDown):
        backend.drainer.drain_all()
    assert stored(backend, tokens) == (tokens.keys() - lost) | stored_before
    with pytest.raises(NodeDown):
        list(backend.counter_sync.sync())
    assert synced(backend, tokens) == (tokens.keys() - lost) | synced_before

    cluster.heal()

    def everything_is_stored() -> bool:
        try:
            backend.drainer.drain_all()
            list(backend.counter_sync.sync())
        except NodeDown:
            return False
        return stored(backend, tokens) == tokens.keys()

    wait_until(everything_is_stored)
    assert synced(backend, tokens) == tokens.keys()


def test_a_dead_node_keeps_no_other_shards_rows_from_being_deleted(
    backend: Backend, tokens: dict[int, str], cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if more parents wait for that node than one round takes."""
    monkeypatch.setattr(cascade_delete, "MAX_PARENTS", 1)
    backend.drainer.drain_all()
    for token in tokens.values():
        backend.catalog.applications.delete(token, cascade=True)
    backend.drainer.drain_all()
    dead = node_of(cluster, min(tokens))
    lost = {token for shard, token in tokens.items() if node_of(cluster, shard) is dead}
    dead.kill()
    with pytest.raises(NodeDown):
        backend.cascade_deleter.delete_all()
    left = {
        token
        for token in tokens.values()
        if backend.cascade_deleter.count_remaining(Parent(token)) is not None
    }
    assert left == lost


def test_a_dead_node_keeps_no_other_shard_from_being_reported_and_compared(
    backend: Backend, tokens: dict[int, str], cluster: RedisCluster
) -> None:
    """Every report says which shards it lacks, and a comparison without them does not count as one."""
    log, database = backend.log, backend.database
    dead = node_of(cluster, min(tokens))
    lost = {shard for shard in database.installation.shards if node_of(cluster, shard) is dead}
    living = next(shard for shard in tokens if shard not in lost)
    orphan = Parent(tokens[living], 9)
    plant_counter(log, living, orphan, epoch=1, issued=1)
    before = read_totals(database, log)
    dead.kill()

    status = read_status(database, log, backend.workers, lambda: 0, None, backend.counter_sync.lag)
    assert status.engines[1].shards_away == sorted(lost)
    assert status.totals.accepted == len(tokens.keys() - lost)
    assert set(status.totals.away) == lost
    assert compute_rates(before, status.totals).accepted is None
    assert status.waiting is not None
    assert status.dirty_counters == len(tokens.keys() - lost)
    assert status.sync_lag_seconds

    comparison = backend.reconciler.begin()
    found = {(finding.kind, finding.token, finding.chat) for finding in comparison.findings()}
    assert found == {(FindingKind.ORPHAN, *orphan)}
    assert comparison.summary.away.keys() == lost
    assert comparison.summary.applications == comparison_size(backend, lost)
    with database.connect() as connection:
        assert reconciliations.last(connection) is None
    with pytest.raises(NodeDown, match=f"{len(tokens.keys() & lost)} of 64 shards"):
        list(backend.counter_sync.sync())


def comparison_size(backend: Backend, lost: set[int]) -> int:
    """How many applications there are in the shards that are not lost."""
    with backend.database.connect() as connection:
        found = connection.execute(text("SELECT token FROM application")).scalars()
        return sum(backend.counters.shard(token) not in lost for token in found)


def test_what_postgresql_has_forgotten_is_stored_again_in_all_shards(
    engines: Engines, backend: Backend
) -> None:
    """Each shard keeps its part of the log on its own node; the share of the memory is that of all nodes."""
    tokens = [backend.catalog.applications.create("x").token for _ in range(6)]
    backend.drainer.drain_all()
    dump = OlderDump(engines, backend)
    for token in tokens:
        backend.acceptor.accept(AcceptRequest.chats(token))
        shortcuts.send(backend, token, "a")
    backend.drainer.drain_all()
    backend.kept_log.trim_all()
    dump.restore()
    backend.drainer.drain_all()
    assert [shortcuts.stored(backend, token) for token in tokens] == [{1: "a"}] * 6
    KeptLog(backend.log, backend.database, 0.0).trim_all()
    sizes = backend.log.sizes(backend.database.installation.shards)
    assert not any(size.entries for size in sizes.values())


def test_the_keys_of_a_shard_have_a_limit_on_each_node(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a part of the memory of the shard's node."""
    check_that_keys_have_a_limit(backend, monkeypatch)
