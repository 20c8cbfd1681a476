"""Group commit for a Redis Cluster: each node has a queue, connections and calls of its own.

So a node that hangs or is down delays only the requests of its own shards.
"""

import asyncio

from backend.api.server.group_commit import (
    MAX_CONCURRENT_CALLS,
    AcceptCallback,
    GroupCommit,
    RunningCalls,
    make_retry_threads,
)
from backend.api.server.per_node import PerNode
from backend.domain.model import Accepted
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.accept_async import make_async_clients
from backend.storage.redis.connection import NodeAddress


class ClusterCommit:
    """Accepts requests for one event loop, as `GroupCommit` does. Not thread-safe."""

    def __init__(self, acceptor: Acceptor, log: AcceptCalls, *, strict: bool = False) -> None:
        """See `GroupCommit`."""
        self._acceptor = acceptor
        self._strict = strict
        self._all_calls = RunningCalls()
        self._log = log
        self._retry_threads = make_retry_threads()
        self._nodes = PerNode(log, self._make)
        # For requests whose node is not known: before the first call, and of slots that no node serves.
        self._in_threads = GroupCommit(acceptor, [], self._retry_threads)

    @property
    def waiting_requests(self) -> int:
        """How many requests are queued or retried, of the node that has the most: each has a limit."""
        return max(commit.waiting_requests for commit in (self._in_threads, *self._nodes.all()))

    @property
    def is_accepting(self) -> bool:
        """See `GroupCommit.is_accepting`; of any node."""
        return any(commit.is_accepting for commit in (self._in_threads, *self._nodes.all()))

    async def accept(self, request: AcceptRequest) -> Accepted:
        """See `GroupCommit.accept`."""
        return await self._commit_of(request).accept(request)

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        """See `GroupCommit.submit`."""
        self._commit_of(request).submit(request, callback)

    async def close(self) -> None:
        """See `GroupCommit.close`."""
        await asyncio.gather(self._in_threads.close(), self._nodes.close())
        await asyncio.to_thread(self._retry_threads.shutdown, wait=True)

    def _commit_of(self, request: AcceptRequest) -> GroupCommit:
        token = request.parent.token
        acceptor = self._acceptor
        if commit := self._nodes.of_known_token(token, acceptor.route_changes):
            return commit
        if not acceptor.is_ready:
            return self._in_threads
        return self._nodes.of_token(token, acceptor.shard(token)) or self._in_threads

    def _make(self, node: NodeAddress) -> GroupCommit:
        clients = make_async_clients(self._log, MAX_CONCURRENT_CALLS, node)
        return GroupCommit(
            self._acceptor,
            clients,
            self._retry_threads,
            strict=self._strict,
            all_calls=self._all_calls,
        )


def make_group_commit(
    acceptor: Acceptor, log: AcceptCalls, *, strict: bool
) -> "GroupCommit | ClusterCommit":
    """The group commit of a Redis."""
    if log.is_cluster:
        return ClusterCommit(acceptor, log, strict=strict)
    return GroupCommit(acceptor, make_async_clients(log, MAX_CONCURRENT_CALLS), strict=strict)
