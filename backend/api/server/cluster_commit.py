"""Group commit for a Redis Cluster: each node has a queue, connections and calls of its own.

So a node that hangs or is down delays only the requests of its own shards.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from backend.api.server.group_commit import (
    MAX_CONCURRENT_CALLS,
    RETRY_THREADS,
    AcceptCallback,
    GroupCommit,
)
from backend.domain.model import Accepted
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.accept_async import make_async_clients
from backend.storage.redis.connection import NodeAddress


class ClusterCommit:
    """Accepts requests for one event loop, as `GroupCommit` does. Not thread-safe."""

    def __init__(self, acceptor: Acceptor, log: AcceptCalls) -> None:
        self._acceptor = acceptor
        self._log = log
        self._retry_threads = ThreadPoolExecutor(RETRY_THREADS, "retry")
        self._by_node: dict[NodeAddress, GroupCommit] = {}
        # For requests whose node is not known: before the first call, and of slots that no node serves.
        self._in_threads = GroupCommit(acceptor, [], self._retry_threads)
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def waiting_requests(self) -> int:
        """How many requests are queued or retried, of the node that has the most: each has a limit."""
        return max(commit.waiting_requests for commit in self._commits())

    async def accept(self, request: AcceptRequest) -> Accepted:
        """See `GroupCommit.accept`."""
        return await self._commit_of(request).accept(request)

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        """See `GroupCommit.submit`."""
        self._commit_of(request).submit(request, callback)

    async def close(self) -> None:
        """See `GroupCommit.close`."""
        await asyncio.gather(*(commit.close() for commit in self._commits()), *self._closing)
        await asyncio.to_thread(self._retry_threads.shutdown, cancel_futures=True)

    def _commits(self) -> list[GroupCommit]:
        return [self._in_threads, *self._by_node.values()]

    def _commit_of(self, request: AcceptRequest) -> GroupCommit:
        if not (self._acceptor.is_ready and self._log.knows_nodes):
            return self._in_threads
        node = self._log.node_of(self._acceptor.shard(request.parent.token))
        if node is None:
            return self._in_threads
        return self._by_node.get(node) or self._add(node)

    def _add(self, node: NodeAddress) -> GroupCommit:
        """Make the group commit of a node, and close those of nodes that serve no slots now."""
        for former in self._by_node.keys() - self._log.masters():
            task = asyncio.ensure_future(self._by_node.pop(former).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        clients = make_async_clients(self._log, MAX_CONCURRENT_CALLS, node)
        self._by_node[node] = GroupCommit(self._acceptor, clients, self._retry_threads)
        return self._by_node[node]


def make_group_commit(acceptor: Acceptor, log: AcceptCalls) -> "GroupCommit | ClusterCommit":
    """The group commit of a Redis."""
    if log.is_cluster:
        return ClusterCommit(acceptor, log)
    return GroupCommit(acceptor, make_async_clients(log, MAX_CONCURRENT_CALLS))
