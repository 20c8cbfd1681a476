"""Group count for a Redis Cluster: each node has a queue, a connection and calls of its own.

So a node that hangs or is down delays only the reads that show counts of its own shards.
"""

import asyncio
from collections.abc import Callable

from backend.api.server.group_count import GroupCount
from backend.api.server.per_node import PerNode
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.counters import CounterCalls
from backend.storage.redis.counters_async import ThreadCounterClient, make_async_counter_client


class ClusterCount:
    """Reads counters for one event loop, as `GroupCount` does. Not thread-safe."""

    def __init__(self, shard_of: Callable[[str], int], log: CounterCalls) -> None:
        """`shard_of` returns a token's shard."""
        self._shard_of = shard_of
        self._log = log
        self._nodes = PerNode(log, self._make)
        # For counters whose node is not known: before the first call, and of slots that no node serves.
        self._in_thread = GroupCount(shard_of, ThreadCounterClient(log))

    def of_application(self, token: str) -> GroupCount:
        """See `GroupCount.of_application`."""
        return self._nodes.of_shard(self._shard_of(token)) or self._in_thread

    async def close(self) -> None:
        """See `GroupCount.close`."""
        await asyncio.gather(self._in_thread.close(), self._nodes.close())

    def _make(self, node: NodeAddress) -> GroupCount:
        return GroupCount(self._shard_of, make_async_counter_client(self._log, node))


def make_group_count(
    shard_of: Callable[[str], int], log: CounterCalls
) -> "GroupCount | ClusterCount":
    """The group count of a Redis. `shard_of` returns a token's shard."""
    if log.is_cluster:
        return ClusterCount(shard_of, log)
    return GroupCount(shard_of, make_async_counter_client(log))
