"""What a process keeps for each node of a Redis Cluster: connections, and what waits for them."""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from backend.storage.redis.client import RedisClient
from backend.storage.redis.connection import NodeAddress


class Closable(Protocol):
    """What is kept for a node."""

    async def close(self) -> None:
        """Wait for what is running, and close the connections."""


T = TypeVar("T", bound=Closable)
MAX_TOKENS = 4_096  # that are remembered


class PerNode(Generic[T]):
    """One of these for each node that serves slots, made when it is first needed. For one event loop only."""

    def __init__(self, client: RedisClient, make: Callable[[NodeAddress], T]) -> None:
        """Of the cluster of a client."""
        self._client = client
        self._make = make
        self._by_node: dict[NodeAddress, T] = {}
        self._by_shard: dict[int, T] = {}  # as the slots were at the last question
        # To find an application's node again takes a twentieth of what a message costs a process.
        self._by_token: dict[str, T] = {}  # as the slots and the routes were at the last question
        self._routes = 0
        self._slots: object = None
        self._closing: set[asyncio.Task[None]] = set()

    def all(self) -> list[T]:
        """Those of all nodes so far."""
        return list(self._by_node.values())

    def of_shard(self, shard: int) -> T | None:
        """The one of the node that serves a shard.

        None before the client's first call, which reads the nodes, and for a slot that no node serves.
        """
        self._forget_moved()
        return self._by_shard.get(shard) or self._find(shard)

    def of_known_token(self, token: str, routes: int) -> T | None:
        """What `of_token` has returned, unless slots have been read since, or `routes` has changed."""
        if routes != self._routes:
            self._by_token.clear()
            self._routes = routes
        if self._client.slots is not self._slots:
            return None  # `of_token` forgets all
        return self._by_token.get(token)

    def of_token(self, token: str, shard: int) -> T | None:
        """As `of_shard`, of an application's shard; `of_known_token` returns it from now on."""
        found = self.of_shard(shard)
        if found is not None:
            if len(self._by_token) == MAX_TOKENS:
                self._by_token.clear()
            self._by_token[token] = found
        return found

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(each.close() for each in self.all()), *self._closing)

    def _forget_moved(self) -> None:
        slots = self._client.slots
        if slots is not self._slots:
            self._by_shard.clear()
            self._by_token.clear()
            self._slots = slots

    def _find(self, shard: int) -> T | None:
        node = self._client.node_of(shard) if self._client.knows_nodes else None
        if node is None:
            return None
        found = self._by_shard[shard] = self._by_node.get(node) or self._add(node)
        return found

    def _add(self, node: NodeAddress) -> T:
        """Make the one of a node, and close those of nodes that serve no slots now."""
        self._by_shard.clear()
        self._by_token.clear()
        for former in self._by_node.keys() - self._client.masters():
            task = asyncio.ensure_future(self._by_node.pop(former).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._by_node[node] = self._make(node)
        return self._by_node[node]
