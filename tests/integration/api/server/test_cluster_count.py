"""Group count on a cluster: each node's counters are read by themselves."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from backend.api.server.cluster_count import ClusterCount
from backend.api.server.group_count import GroupCount
from backend.api.server.group_read import GroupRead
from backend.bootstrap import Backend, open_unchecked
from backend.domain.errors import NodeDown
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import grouped_reads
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.counters import Issued
from tests.conftest import Engines
from tests.integration.api.server.test_group_read import RecordedRead, connected
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]

CHATS = 3


@pytest.fixture
def backend(engines: Engines, redis_cluster: RedisCluster) -> Iterator[Backend]:
    """A new installation on the cluster. Its calls wait as long as they have to."""
    seconds = PATIENCE_SECONDS
    with open_unchecked(
        engines.on_cluster(redis_cluster),
        connect_timeout_seconds=seconds,
        reply_timeout_seconds=seconds,
    ) as backend:
        yield backend


@pytest.fixture
def applications(backend: Backend, redis_cluster: RedisCluster) -> dict[ClusterNode, Parent]:
    """An application of each of two nodes, with some chats, whose counter the script has read before."""
    found: dict[ClusterNode, Parent] = {}
    while len(found) < 2:
        application = Parent(backend.catalog.applications.create("x").token)
        backend.acceptor.accept(AcceptRequest.chats(application.token, CHATS))
        backend.counters.read_issued([application])
        found[node_of(backend, redis_cluster, application)] = application
    return found


def node_of(backend: Backend, cluster: RedisCluster, parent: Parent) -> ClusterNode:
    return cluster.master_of(backend.log.counter_key(backend.counters.shard(parent.token), parent))


async def count_of(counts: ClusterCount, application: Parent) -> Issued | Exception:
    """The counter as it is read, or the error."""
    counted: asyncio.Future[Issued | Exception] = asyncio.get_running_loop().create_future()
    counts.of_application(application.token).submit([application], counted.set_result)
    return await counted


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await scenario()

    uvloop.run(main())


def test_a_node_that_hangs_delays_only_reads_of_its_own_shards(
    backend: Backend, redis_cluster: RedisCluster, applications: dict[ClusterNode, Parent]
) -> None:
    """Even if one statement has read the rows of all; and no thread waits for Redis."""
    (node, hanging), (_, other) = applications.items()

    def reads() -> list[RecordedRead]:
        return [
            RecordedRead(grouped_reads.APPLICATIONS, (parent.token,), 1, [parent])
            for parent in (hanging, other)
        ]

    async def scenario() -> None:
        counts = ClusterCount(backend.counters.shard, backend.log)
        group = GroupRead(backend.database, counts)
        await connected(group)
        for read in (first := reads()):
            group.submit(read)
        for read, parent in zip(first, (hanging, other), strict=True):
            assert await read.result
            assert read.issued[parent] == CHATS
        node.suspend()
        late, prompt = reads()
        group.submit(late)
        group.submit(prompt)
        assert await prompt.result
        assert not late.result.done()
        node.resume()
        assert await late.result
        group.close()
        await counts.close()

    try:
        run(scenario)
    finally:
        redis_cluster.heal()


def test_the_counters_of_a_dead_node_cannot_be_read(
    backend: Backend, applications: dict[ClusterNode, Parent]
) -> None:
    """Its reads fail, and the others are answered."""
    (node, dead), (_, other) = applications.items()

    async def scenario() -> None:
        counts = ClusterCount(backend.counters.shard, backend.log)
        assert await count_of(counts, dead) == {dead: CHATS}
        node.kill()
        assert isinstance(await count_of(counts, dead), NodeDown)
        assert await count_of(counts, other) == {other: CHATS}
        await counts.close()

    run(scenario)


def test_a_counter_that_has_moved_is_read_from_its_new_node(
    backend: Backend, redis_cluster: RedisCluster, applications: dict[ClusterNode, Parent]
) -> None:
    """The first read takes the ordinary route, and the slots are read again."""
    (_, moving), (target, _) = applications.items()
    shard = backend.counters.shard(moving.token)
    slot = redis_cluster.slot(backend.log.key(shard, "epoch"))

    async def scenario() -> None:
        counts = ClusterCount(backend.counters.shard, backend.log)
        assert await count_of(counts, moving) == {moving: CHATS}
        redis_cluster.move(slot, target)
        assert await count_of(counts, moving) == {moving: None}
        # The node that is asked for the slots may not have heard of it yet; the next read asks again.
        while backend.log.node_of(shard) != NodeAddress("127.0.0.1", target.port):
            assert await count_of(counts, moving) == {moving: None}
        # As the ordinary route does; a shard on another server begins an epoch.
        await asyncio.to_thread(backend.counters.read_issued, [moving])
        assert await count_of(counts, moving) == {moving: CHATS}
        await counts.close()

    run(scenario)


def test_before_the_nodes_are_known_a_thread_reads(
    redis_cluster: RedisCluster, backend: Backend
) -> None:
    """As in a process that has just started; then each node has a queue of its own."""
    application = Parent(backend.catalog.applications.create("x").token)
    backend.acceptor.accept(AcceptRequest.chats(application.token, CHATS))

    async def scenario() -> None:
        with open_unchecked(backend.settings) as started:
            await asyncio.to_thread(lambda: started.database.installation)
            counts = ClusterCount(started.counters.shard, started.log)
            assert not started.log.knows_nodes
            assert await count_of(counts, application) == {application: CHATS}
            assert started.log.knows_nodes
            queues: set[GroupCount] = {
                counts.of_application(backend.catalog.applications.create("x").token)
                for _ in range(20)
            }
            assert len(queues) == len(redis_cluster.masters)
            await counts.close()

    run(scenario)
