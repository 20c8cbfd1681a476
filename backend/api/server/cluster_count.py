"""Group count for a Redis Cluster: the counters of each node are read in calls of their own.

So a node that hangs or is down delays only the reads that need its counters.
"""

import asyncio
from collections.abc import Callable, Sequence

from backend.api.server.group_count import Counted, GroupCount
from backend.domain.model import Parent
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.counters import CounterCalls, Issued
from backend.storage.redis.counters_async import make_async_counter_client


class ClusterCount:
    """Reads counters for one event loop, as `GroupCount` does. Not thread-safe."""

    def __init__(self, shard_of: Callable[[str], int], log: CounterCalls) -> None:
        self._shard_of = shard_of
        self._log = log
        self._by_node: dict[NodeAddress | None, GroupCount] = {}
        """None has the counters whose node is not known: before the first call, and without a node."""

    def submit(self, parents: Sequence[Parent], callback: Counted) -> None:
        """See `GroupCount.submit`. Counters of a node that does not answer count as not verified."""
        by_node: dict[NodeAddress | None, list[Parent]] = {}
        for parent in parents:
            by_node.setdefault(self._node_of(parent), []).append(parent)
        if not by_node:
            by_node[None] = []
        collected = _CollectedCounts(len(by_node), callback)
        for node, of_node in by_node.items():
            self._count_of(node).submit(of_node, collected.add)

    async def close(self) -> None:
        """See `GroupCount.close`."""
        await asyncio.gather(*(count.close() for count in self._by_node.values()))

    def _node_of(self, parent: Parent) -> NodeAddress | None:
        return self._log.node_of(self._shard_of(parent.token)) if self._log.knows_nodes else None

    def _count_of(self, node: NodeAddress | None) -> GroupCount:
        if node not in self._by_node:
            self._by_node[node] = GroupCount(self._shard_of, self._log, None)
        return self._by_node[node]


class _CollectedCounts:
    """Passes on the counters of a request, or an exception, once those of all nodes are read."""

    def __init__(self, parts: int, callback: Counted) -> None:
        self._missing = parts
        self._callback = callback
        self._found: Issued = {}
        self._error: Exception | None = None

    def add(self, part: Issued | Exception) -> None:
        """Take the counters of one node."""
        self._missing -= 1
        if isinstance(part, Exception):
            self._error = part
        else:
            self._found.update(part)
        if not self._missing:
            self._callback(self._error or self._found)


def make_group_count(
    shard_of: Callable[[str], int], log: CounterCalls
) -> "GroupCount | ClusterCount":
    """The group count of a Redis. `shard_of` returns a token's shard."""
    if log.is_cluster:
        return ClusterCount(shard_of, log)
    return GroupCount(shard_of, log, make_async_counter_client(log))
