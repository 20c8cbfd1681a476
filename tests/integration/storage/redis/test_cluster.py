"""Calls of a cluster while a node hangs, is dead, is new, or while a slot moves."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, NodeDown, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.keys import shard_key
from backend.storage.redis.notifications import CHANNEL, Change, Subscription
from backend.storage.redis.types import LogEnd
from tests.conftest import Engines
from tests.support.engines import valkey_binary
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]


@pytest.fixture
def backend(engines: Engines, redis_cluster: RedisCluster) -> Iterator[Backend]:
    """A new installation on the cluster."""
    with open_backend(engines.on_cluster(redis_cluster)) as backend:
        yield backend


@pytest.fixture
def chats(backend: Backend, redis_cluster: RedisCluster) -> dict[int, Parent]:
    """Chats, by shard, whose counters are verified: at least two of each node."""
    found: dict[int, Parent] = {}
    nodes: Counter[ClusterNode] = Counter()
    while len(nodes) < len(redis_cluster.masters) or min(nodes.values()) < 2:
        token = backend.catalog.applications.create("x").token
        shard = backend.counters.shard(token)
        if shard not in found:
            backend.acceptor.accept(AcceptRequest.chats(token))
            found[shard] = Parent(token, 1)
            nodes[node_of(redis_cluster, shard)] += 1
    return found


def node_of(cluster: RedisCluster, shard: int) -> ClusterNode:
    return cluster.master_of(shard_key(shard, "epoch"))


def send_to_each(backend: Backend, chats: dict[int, Parent]) -> dict[int, object]:
    """Send a message to the chat of each shard in one batch; the answer of each shard."""
    requests = [
        AcceptRequest.messages(chat.token, chat.chat or 0, ["x"]) for chat in chats.values()
    ]
    return dict(zip(chats, backend.acceptor.try_accept(requests), strict=True))


def test_a_node_that_hangs_fails_its_own_shards(
    backend: Backend, chats: dict[int, Parent], redis_cluster: RedisCluster
) -> None:
    """The others are accepted in the same batch; while it hangs, nothing is sent to it."""
    hanging = node_of(redis_cluster, min(chats))
    lost = {shard for shard in chats if node_of(redis_cluster, shard) is hanging}
    hanging.suspend()
    first = send_to_each(backend, chats)
    for shard, answer in first.items():
        assert isinstance(answer, EngineDown | Unconfirmed if shard in lost else Accepted), answer
    second = send_to_each(backend, chats)
    refused = {shard for shard, answer in second.items() if not isinstance(answer, Accepted)}
    assert refused <= lost  # the replica may have taken over by now
    assert all(isinstance(second[shard], EngineDown) for shard in refused)

    shards = backend.database.installation.shards
    ends = backend.log.try_ends(shards)
    assert all(isinstance(ends[shard], LogEnd) for shard in chats if shard not in lost)
    wait_until(
        lambda: all(isinstance(end, LogEnd) for end in backend.log.try_ends(shards).values())
    )
    wait_until(lambda: _all_accepted(backend, chats))


def test_a_slot_that_moves_to_a_new_node_refuses_and_loses_nothing(engines: Engines) -> None:
    """The client learns of the node by a redirection. Each answer is an outcome or NodeDown."""
    cluster = RedisCluster(valkey_binary(), masters=1, replicas=0)
    try:
        cluster.start()
        with open_backend(engines.on_cluster(cluster)) as backend:
            token = backend.catalog.applications.create("x").token
            shard = backend.counters.shard(token)
            backend.acceptor.accept(AcceptRequest.chats(token, 4))
            target = cluster.add_node()
            answers = []
            steps = count()

            def send() -> None:
                if next(steps) % 4:
                    return
                requests = [AcceptRequest.messages(token, 1, ["x"]), AcceptRequest.chats(token)]
                for request in requests:  # a counter, and a key that no counter has had
                    answers.extend(backend.acceptor.accept_batch([request]))

            cluster.move(cluster.slot(backend.log.key(shard, "log")), target, send)
            answers += backend.acceptor.accept_batch([AcceptRequest.chats(token)])
            assert {type(answer) for answer in answers} == {Accepted, NodeDown}, {
                str(a): type(a) for a in answers
            }
            assert isinstance(answers[-1], Accepted)
            assert not list(backend.dead_letters.all())
            backend.drainer.drain_all()
            sent = sum(isinstance(answer, Accepted) for answer in answers[:-1:2])
            assert len(list(backend.catalog.messages.list(token, 1))) == sent
    finally:
        cluster.remove()


def test_a_cluster_waits_until_replicas_have_it_on_disk(
    engines: Engines, redis_cluster: RedisCluster
) -> None:
    """The wait goes to the same connection of the same node as the script."""
    with open_backend(engines.on_cluster(redis_cluster, durable_replicas=1)) as backend:
        token = backend.catalog.applications.create("x").token
        assert backend.acceptor.accept(AcceptRequest.chats(token)).first == 1
        (replica,) = redis_cluster.replicas_of(
            node_of(redis_cluster, backend.counters.shard(token))
        )
        replica.suspend()
        with pytest.raises(Unconfirmed, match="replicas"):
            backend.acceptor.accept(AcceptRequest.chats(token))


def _all_accepted(backend: Backend, chats: dict[int, Parent]) -> bool:
    requests = [
        AcceptRequest.messages(chat.token, chat.chat or 0, ["x"]) for chat in chats.values()
    ]
    return all(isinstance(answer, Accepted) for answer in backend.acceptor.accept_batch(requests))


def test_notifications_do_not_depend_on_one_node(
    backend: Backend, redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the first node that is asked hangs, a new subscription receives what is published."""
    hanging = redis_cluster.master_of(CHANNEL)
    monkeypatch.setattr(
        "random.shuffle", lambda nodes: nodes.sort(key=lambda node: node.port != hanging.port)
    )
    hanging.suspend()
    with closing(Subscription(backend.log.url)) as subscription:
        change = Change("token", 1)
        backend.log.notify_changes([change])
        received: list[Change] = []
        while not received:
            received += subscription.read(1)
        assert received == [change]
