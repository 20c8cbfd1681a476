"""Group commit on a cluster: each node accepts by itself, whatever happens to another node."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from backend.api.server.cluster_commit import ClusterCommit
from backend.bootstrap import Backend, open_backend, open_unchecked
from backend.domain.errors import EngineDown, InstaChatError, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.keys import shard_key
from backend.storage.redis.script_loader import SCRIPTS, SHAS
from tests.conftest import Engines
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]

Chats = dict[int, Parent]
"""A chat in each of some shards: of each node at least two."""


@pytest.fixture
def settings(engines: Engines, redis_cluster: RedisCluster) -> Settings:
    """Settings on the cluster."""
    return engines.on_cluster(redis_cluster)


@pytest.fixture
def backend(settings: Settings) -> Iterator[Backend]:
    """An installation on the cluster. Its calls wait as long as they have to."""
    seconds = PATIENCE_SECONDS
    with open_unchecked(
        settings, connect_timeout_seconds=seconds, reply_timeout_seconds=seconds
    ) as backend:
        yield backend


@pytest.fixture
def chats(settings: Settings, redis_cluster: RedisCluster) -> Chats:
    """Their counters are verified."""
    found: Chats = {}
    with open_backend(settings) as backend:
        nodes: Counter[ClusterNode] = Counter()
        while len(nodes) < len(redis_cluster.masters) or min(nodes.values()) < 2:
            token = backend.catalog.applications.create("x").token
            shard = backend.counters.shard(token)
            if shard not in found:
                backend.acceptor.accept(AcceptRequest.chats(token))
                found[shard] = Parent(token, 1)
                nodes[node_of(redis_cluster, shard)] += 1
    return found


@asynccontextmanager
async def committing(backend: Backend) -> AsyncIterator[ClusterCommit]:
    """The group commit of a process that has accepted before, so that it knows the nodes."""
    await asyncio.to_thread(backend.acceptor.refresh)
    await asyncio.to_thread(backend.log.try_ends, backend.database.installation.shards)
    commit = ClusterCommit(backend.acceptor, backend.log)
    try:
        yield commit
    finally:
        await commit.close()


def send(commit: ClusterCommit, chat: Parent) -> "asyncio.Task[Accepted | InstaChatError]":
    """Send a message; the answer, or the error."""

    async def accept() -> Accepted | InstaChatError:
        assert chat.chat
        try:
            return await commit.accept(AcceptRequest.messages(chat.token, chat.chat, ["x"]))
        except InstaChatError as error:
            return error

    return asyncio.ensure_future(accept())


async def numbers(commit: ClusterCommit, chats: Chats) -> dict[int, object]:
    """Send a message to each chat; by shard the number, or the kind of the error."""
    answers = await asyncio.gather(*(send(commit, chat) for chat in chats.values()))
    return dict(zip(chats, map(_number_or_error, answers), strict=True))


def _number_or_error(answer: Accepted | InstaChatError) -> object:
    if isinstance(answer, Accepted):
        return answer.first
    return EngineDown if isinstance(answer, EngineDown) else type(answer)


def node_of(cluster: RedisCluster, shard: int) -> ClusterNode:
    return cluster.master_of(shard_key(shard, "epoch"))


def shards_of(cluster: RedisCluster, node: ClusterNode, chats: Chats) -> set[int]:
    return {shard for shard in chats if node_of(cluster, shard) is node}


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    uvloop.run(main())


def calls(node: ClusterNode, command: str) -> int:
    """How often a node has executed a command of clients."""
    statistics = node.ask("INFO", "commandstats")
    return int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0))


def test_each_node_is_sent_its_shards_and_nothing_else(
    backend: Backend, chats: Chats, redis_cluster: RedisCluster
) -> None:
    """One script for all of them, and no thread."""

    async def scenario() -> None:
        async with committing(backend) as commit:
            assert await numbers(commit, chats) == dict.fromkeys(chats, 1)  # also connects
            before = {node: calls(node, "evalsha") for node in redis_cluster.masters}
            assert not commit.is_accepting
            accepting = asyncio.ensure_future(numbers(commit, chats))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert commit.is_accepting
            assert await accepting == dict.fromkeys(chats, 2)
            assert not commit.is_accepting
            for node, evaluated in before.items():
                assert calls(node, "evalsha") - evaluated == 1

    run(scenario)


@pytest.mark.parametrize(
    ("refusal", "first"),
    [
        ("Lua scripts without any input keys are not supported.", 2),
        ("what no server says", Unconfirmed),
    ],
    ids=["known", "unknown"],
)
def test_a_node_that_wants_keys_to_be_declared_is_called_for_each_shard(
    backend: Backend,
    chats: Chats,
    redis_cluster: RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
    first: object,
) -> None:
    """As those of some managed services. A refusal that is not known costs the requests that have met it."""
    check = f'if #KEYS == 0 then return redis.error_reply("ERR {refusal}") end'
    script = f"{check}\n{SCRIPTS['accept']}"
    sha = hashlib.sha1(script.encode()).hexdigest()

    async def scenario() -> None:
        async with committing(backend) as commit:
            assert await numbers(commit, chats) == dict.fromkeys(chats, 1)
            monkeypatch.setitem(SCRIPTS, "accept", script)
            monkeypatch.setitem(SHAS, "accept", sha)
            monkeypatch.setitem(backend.log._cluster._scripts, sha, script)
            assert await numbers(commit, chats) == dict.fromkeys(chats, first)
            given = 2 if first == 2 else 1
            assert await numbers(commit, chats) == dict.fromkeys(chats, given + 1)  # loads it
            before = {node: calls(node, "evalsha") for node in redis_cluster.masters}
            assert await numbers(commit, chats) == dict.fromkeys(chats, given + 2)
            for node, evaluated in before.items():
                assert calls(node, "evalsha") - evaluated == len(
                    shards_of(redis_cluster, node, chats)
                )

    run(scenario)


def test_without_scripts_a_node_loads_them_once(
    backend: Backend, chats: Chats, redis_cluster: RedisCluster
) -> None:
    """Each message is accepted once."""

    async def scenario() -> None:
        async with committing(backend) as commit:
            assert await numbers(commit, chats) == dict.fromkeys(chats, 1)
            for node in redis_cluster.masters:
                node.ask("SCRIPT", "FLUSH")
            assert await numbers(commit, chats) == dict.fromkeys(chats, 2)

    run(scenario)


@pytest.mark.scale("Redis Cluster: a master hangs")
def test_a_node_that_hangs_delays_no_other(
    backend: Backend, chats: Chats, redis_cluster: RedisCluster
) -> None:
    """Batch after batch of the other nodes is accepted while its own requests wait."""
    first = next(iter(chats))
    hanging = node_of(redis_cluster, first)
    others = {
        shard: chats[shard] for shard in chats.keys() - shards_of(redis_cluster, hanging, chats)
    }

    async def scenario() -> None:
        async with committing(backend) as commit:
            assert await numbers(commit, chats) == dict.fromkeys(chats, 1)
            hanging.suspend()
            try:
                waiting = [send(commit, chats[first]) for _ in range(3)]
                for number in (2, 3, 4):
                    assert await numbers(commit, others) == dict.fromkeys(others, number)
                assert not any(task.done() for task in waiting)
            finally:
                hanging.resume()
            for answer in await asyncio.gather(*waiting):
                # If its replica has taken over, what was sent before is not known.
                assert isinstance(answer, Accepted | EngineDown | Unconfirmed)

    run(scenario)


@pytest.mark.scale("Redis Cluster: a master is killed")
def test_the_requests_of_a_dead_node_are_refused_until_its_replica_takes_over(
    settings: Settings, chats: Chats, redis_cluster: RedisCluster
) -> None:
    """The other nodes are not concerned."""
    dead = node_of(redis_cluster, next(iter(chats)))
    lost = shards_of(redis_cluster, dead, chats)

    async def scenario() -> None:
        with open_backend(settings) as backend:
            async with committing(backend) as commit:
                assert await numbers(commit, chats) == dict.fromkeys(chats, 1)
                dead.kill()
                answers = await numbers(commit, chats)
                refused = {shard for shard in chats if not isinstance(answers[shard], int)}
                assert refused == lost
                assert {answers[shard] for shard in refused} <= {EngineDown, Unconfirmed}
                while not all(isinstance(n, int) for n in (await numbers(commit, chats)).values()):
                    await asyncio.sleep(0.1)

    run(scenario)


def test_a_shard_that_moves_is_followed(
    backend: Backend, chats: Chats, redis_cluster: RedisCluster
) -> None:
    """While either node has some of its keys, its requests are refused; those of other shards never are."""
    moving = next(iter(chats))
    slot = redis_cluster.slot(backend.log.key(moving, "epoch"))
    source = redis_cluster.master_of(slot)
    target = next(node for node in redis_cluster.masters if node is not source)

    def expected(others: int, of_moving: object) -> dict[int, object]:
        return dict.fromkeys(chats, others) | {moving: of_moving}

    async def scenario() -> None:
        async with committing(backend) as commit:
            assert await numbers(commit, chats) == expected(1, 1)
            redis_cluster.begin_move(slot, target)
            epoch = backend.log.key(moving, "epoch")
            source.ask("MIGRATE", "127.0.0.1", target.port, epoch, 0, 60_000)
            assert await numbers(commit, chats) == expected(2, EngineDown)
            redis_cluster.move_keys(slot, target)
            answers = await numbers(commit, chats)
            # Refused if a key does not exist: it might be on the other node.
            assert answers in (expected(3, 2), expected(3, EngineDown))
            given = 2 if answers[moving] == 2 else 1
            redis_cluster.end_move(slot, target)
            assert await numbers(commit, chats) == expected(4, given + 1)
            to_target = NodeAddress("127.0.0.1", target.port)
            # The node that is asked for the slots may not have heard of it yet; the next request asks again.
            while backend.log.node_of(moving) != to_target:
                given += 1
                assert await numbers(commit, {moving: chats[moving]}) == {moving: given + 1}
            assert await numbers(commit, chats) == expected(5, given + 2)

    run(scenario)


def test_before_the_nodes_are_known_threads_accept(backend: Backend, chats: Chats) -> None:
    """As in a process that has just started."""

    async def scenario() -> None:
        commit = ClusterCommit(backend.acceptor, backend.log)
        assert not backend.log.knows_nodes
        assert await numbers(commit, chats) == dict.fromkeys(chats, 1)
        assert backend.log.knows_nodes
        await commit.close()

    run(scenario)


def test_answers_wait_for_replicas_of_their_own_node(
    settings: Settings, chats: Chats, redis_cluster: RedisCluster
) -> None:
    """Of a node whose replica hangs they are unconfirmed."""
    node = node_of(redis_cluster, next(iter(chats)))
    (replica,) = redis_cluster.replicas_of(node)
    unconfirmed = shards_of(redis_cluster, node, chats)
    durable = settings.model_copy(update={"durable_replicas": 1})

    async def scenario() -> None:
        with open_backend(durable) as backend:
            async with committing(backend) as commit:
                assert await numbers(commit, chats) == dict.fromkeys(chats, 1)
                replica.suspend()
                expected = {s: Unconfirmed if s in unconfirmed else 2 for s in chats}
                assert await numbers(commit, chats) == expected

    run(scenario)
