"""What a process keeps for each node of a cluster: which of them an application's requests take."""

import asyncio
from types import SimpleNamespace
from typing import Any

from backend.api.server.per_node import MAX_TOKENS, PerNode
from backend.storage.redis.connection import NodeAddress


class Commit:
    """Something that is kept for a node."""

    def __init__(self, node: NodeAddress) -> None:
        self.node = node

    async def close(self) -> None:
        """Nothing to close."""


def make_client(*ports: int) -> Any:
    """The client of a cluster whose shard N is served by the node at `ports[N]`."""
    client = SimpleNamespace(slots=object(), knows_nodes=True, ports=list(ports))
    client.node_of = lambda shard: NodeAddress("here", client.ports[shard])
    client.masters = lambda: {NodeAddress("here", port) for port in client.ports}
    return client


def port_of(commit: Commit | None) -> int | None:
    return commit.node.port if commit else None


def test_an_applications_node_is_remembered_until_slots_or_routes_change() -> None:
    async def scenario() -> None:
        client = make_client(1, 2)
        nodes = PerNode(client, Commit)
        assert nodes.of_known_token("a", 0) is None
        assert port_of(nodes.of_token("a", 0)) == 1
        assert port_of(nodes.of_known_token("a", 0)) == 1
        assert nodes.of_known_token("a", 1) is None  # it may be in another shard
        assert port_of(nodes.of_token("a", 1)) == 2
        assert port_of(nodes.of_known_token("a", 1)) == 2
        client.slots, client.ports = object(), [2, 1]
        assert nodes.of_known_token("a", 1) is None  # its shard may be served by another node
        assert port_of(nodes.of_token("a", 1)) == 1
        await nodes.close()

    asyncio.run(scenario())


def test_a_node_that_was_closed_is_not_remembered() -> None:
    async def scenario() -> None:
        client = make_client(1, 2)
        nodes = PerNode(client, Commit)
        nodes.of_token("a", 0)
        client.ports = [3, 2]  # seen before the slots are
        assert port_of(nodes.of_shard(1)) == 2
        assert nodes.of_known_token("a", 0) is None
        await nodes.close()

    asyncio.run(scenario())


def test_a_bounded_number_of_applications_is_remembered() -> None:
    async def scenario() -> None:
        nodes = PerNode(make_client(1), Commit)
        tokens = [f"token-{number}" for number in range(MAX_TOKENS + 1)]
        for token in tokens:
            nodes.of_token(token, 0)
        assert nodes.of_known_token(tokens[0], 0) is None
        assert port_of(nodes.of_known_token(tokens[-1], 0)) == 1
        await nodes.close()

    asyncio.run(scenario())
