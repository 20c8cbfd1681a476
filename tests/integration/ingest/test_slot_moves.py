"""Requests while the slot of their shard moves to another master of a Redis Cluster, key by key.

Redis 7 serves a key on the node that has it, and ends a script at the first key that its node does not have.
Refused requests have changed nothing, and the ledger shows it.
"""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import uvloop

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, InstaChatError
from backend.domain.model import Accepted
from backend.ingest.requests import AcceptRequest
from backend.storage.redis import cluster
from tests.conftest import Engines, skip_absent
from tests.support.engines import redis_binary
from tests.support.faults.cluster_writers import ClusterWriters
from tests.support.faults.scale_table import Record, record_audit
from tests.support.faults.shortcuts import scalar
from tests.support.ledger import Ledger, audit
from tests.support.redis_cluster import RedisCluster

pytestmark = pytest.mark.faults

CHATS = int(os.environ.get("INSTACHAT_MOVED_CHATS", "150"))
"""The keys of that many counters move. The fault that this test is for was found in a move of 22,000."""


@pytest.fixture(scope="module")
def redis_7() -> Iterator[RedisCluster]:
    """Two masters of Redis 7, which moves slots key by key."""
    binary = redis_binary()
    if binary is None:
        skip_absent("Redis 7")
    assert binary
    cluster = RedisCluster(binary, masters=2, replicas=0)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def backend(engines: Engines, redis_7: RedisCluster) -> Iterator[Backend]:
    """A backend on that cluster, with no worker."""
    redis_7.flush()
    with open_backend(engines.on_cluster(redis_7)) as backend:
        yield backend


class Client:
    """Sends requests of every kind, and records the answers in a ledger."""

    def __init__(self, backend: Backend, ledger: Ledger) -> None:
        self._backend = backend
        self._ledger = ledger
        self.token = backend.catalog.applications.create("moving").token
        self.chats: list[int] = []
        self._numbers = count(3)  # three requests in a row go to the same chat
        self.refusals: list[InstaChatError] = []

    def create_chats(self, amount: int) -> None:
        """Create chats, as one request."""
        answer = self._backend.acceptor.accept(AcceptRequest.chats(self.token, amount))
        self.chats += range(answer.first, answer.last + 1)

    def send_batch(self) -> None:
        """Send a new chat and messages for chats that exist, as the requests of one batch."""
        number = next(self._numbers)
        chat = self.chats[number // 3 % len(self.chats)]
        texts = [f"{number}a", f"{number}b"]
        batch = [
            AcceptRequest.chats(self.token),
            AcceptRequest.messages(self.token, chat, texts),
        ]
        new_chat, messages = self._backend.acceptor.accept_batch(batch)
        if isinstance(new_chat, Accepted):
            assert new_chat.first not in self.chats, "the number of a chat was given twice"
            self.chats.append(new_chat.first)
        self._record(messages, chat, texts)

    def send_message(self, **options: str) -> None:
        """Send one message; options are those of a request, such as its idempotency key."""
        number = next(self._numbers)
        chat = self.chats[number // 3 % len(self.chats)]
        request = AcceptRequest.messages(self.token, chat, [f"{number}"], **options)
        (answer,) = self._backend.acceptor.accept_batch([request])
        self._record(answer, chat, [f"{number}"])

    def _record(self, answer: Accepted | InstaChatError, chat: int, texts: list[str]) -> None:
        if isinstance(answer, Accepted):
            self._ledger.record_answer(self.token, chat, answer.first, texts)
        else:
            assert isinstance(answer, EngineDown), answer
            self.refusals.append(answer)


@pytest.mark.scale("Redis Cluster: a slot moves key by key (Redis 7)")
def test_no_number_is_given_twice_while_a_slot_moves(
    backend: Backend,
    redis_7: RedisCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    """Every answer is of a message that is stored, and a request that was refused has stored none."""
    monkeypatch.setattr(cluster, "TRY_AGAIN_DELAY_SECONDS", 0)
    ledger = tmp_path / "ledger"
    client = Client(backend, Ledger(ledger))
    while len(client.chats) < CHATS:
        client.create_chats(min(CHATS - len(client.chats), 1_000))
    shard = backend.counters.shard(client.token)
    steps = count()

    def accept() -> None:
        if (step := next(steps)) % max(20, CHATS // 500) == 0:
            client.send_batch()
            client.send_message()
            client.send_message(key=f"key {step}")

    slot = redis_7.slot(backend.log.key(shard, "epoch"))
    source = redis_7.master_of(slot)
    (target,) = (node for node in redis_7.masters if node is not source)
    redis_7.move(slot, target, accept)
    moved = len(client.refusals)
    assert moved, "nothing was refused, so nothing was tried while keys were missing"
    client.send_batch()
    client.send_message(key="after")
    assert len(client.refusals) == moved, "the move has ended"

    backend.drainer.drain_all()
    result = audit(backend, [ledger])
    record_audit(record_property, result)
    assert result.answered
    assert not result.faults
    stored = {chat.number for chat in backend.catalog.chats.list(client.token)}
    assert stored == set(client.chats)
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0


MOVES = 2


def test_a_call_that_succeeds_at_the_last_attempt_is_answered(
    backend: Backend, redis_7: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the keys of a shard are on two nodes, neither serves it. A message is accepted once."""
    token = backend.catalog.applications.create("moving").token
    backend.acceptor.accept(AcceptRequest.chats(token))
    epoch = backend.log.key(backend.counters.shard(token), "epoch")
    slot = redis_7.slot(epoch)
    source = redis_7.master_of(slot)
    (target,) = (node for node in redis_7.masters if node is not source)
    value = source.ask("GET", epoch)
    attempts: list[float] = []

    def delay(seconds: float) -> None:
        attempts.append(seconds)
        if len(attempts) == cluster.MAX_REDIRECTIONS:
            source.ask("CLUSTER", "SETSLOT", slot, "STABLE")  # the move is given up
            source.ask("SET", epoch, value)

    monkeypatch.setattr("backend.storage.redis.cluster.time.sleep", delay)
    redis_7.begin_move(slot, target)
    source.ask("MIGRATE", "127.0.0.1", target.port, epoch, 0, 60_000)
    request = AcceptRequest.messages(token, 1, ["a"])
    assert backend.acceptor.accept(request).first == 1
    assert len(attempts) == cluster.MAX_REDIRECTIONS
    monkeypatch.undo()
    redis_7.heal()


def test_a_server_loses_nothing_while_shards_move(
    backend: Backend, redis_7: RedisCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for all shards of a node is refused in the shard that moves, and accepts in the others."""
    monkeypatch.setattr(cluster, "TRY_AGAIN_DELAY_SECONDS", 0)
    writers = ClusterWriters(backend, tmp_path)

    async def move_shards() -> None:
        await writers.wait_for_answers(1)
        shards = sorted({backend.counters.shard(token) for token in writers.tokens})
        for shard in shards[:MOVES]:
            slot = redis_7.slot(backend.log.key(shard, "epoch"))
            (target,) = (node for node in redis_7.masters if node is not redis_7.master_of(slot))
            answer = partial(writers.wait_for_any_answers, 1)
            await asyncio.to_thread(redis_7.move, slot, target, answer)

    uvloop.run(writers.run(move_shards))
    assert not backend.log.must_declare_keys
    backend.drainer.drain_all()
    result = audit(backend, list(tmp_path.glob("ledger-*")))
    assert result.answered
    assert not result.faults
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0
