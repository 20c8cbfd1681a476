"""Group count on a cluster: each node's counters are read by themselves."""

import asyncio
from collections.abc import Iterator

import pytest

from backend.api.server.cluster_count import ClusterCount
from backend.bootstrap import Backend, open_unchecked
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.counters import Issued
from tests.conftest import Engines
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]


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


def test_a_node_that_hangs_delays_only_its_own_counters(
    backend: Backend, redis_cluster: RedisCluster
) -> None:
    """Of one request as well: those of several nodes come together."""
    tokens: dict[ClusterNode, str] = {}
    while len(tokens) < 2:
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token, 3))
        key = backend.log.counter_key(backend.counters.shard(token), Parent(token))
        tokens[redis_cluster.master_of(key)] = token
    hanging, other = map(Parent, tokens.values())

    async def scenario() -> None:
        count = ClusterCount(backend.counters.shard, backend.log)

        def read(*parents: Parent) -> "asyncio.Future[Issued | Exception]":
            counted = asyncio.get_running_loop().create_future()
            count.submit(parents, counted.set_result)
            return counted

        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await read(hanging, other) == {hanging: 3, other: 3}
            assert await read() == {}
            node = next(iter(tokens))
            node.suspend()
            late, both = read(hanging), read(hanging, other)
            assert await read(other) == {other: 3}
            assert not late.done()
            assert not both.done()
            node.resume()
            assert await late == {hanging: 3}
            assert await both == {hanging: 3, other: 3}
        await count.close()

    asyncio.run(scenario())
