"""Idempotency keys: what one takes of Redis's memory, and that those of a shard leave the rest to others."""

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import LogFull
from backend.domain.model import Parent
from backend.ingest import key_limit
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.idempotency_keys import IDEMPOTENCY_KEY_BYTES
from tests.conftest import Engines
from tests.support.engines import RedisServer

EXPIRY_BYTES = 64  # of Redis's table of expiring keys, which MEMORY USAGE leaves out


def keyed(token: str, key: object) -> AcceptRequest:
    """A request for a message with an idempotency key."""
    return AcceptRequest.message(Parent(token, 1), "x", key=str(key))


def test_the_keys_of_a_shard_leave_memory_to_others(
    engines: Engines, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its part, only what comes with a key is refused, until keys have expired."""
    settings = engines.settings().model_copy(update={"redis_url": own_redis.url})
    with open_backend(settings) as backend:
        check_that_keys_have_a_limit(backend, monkeypatch)


def check_that_keys_have_a_limit(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Redis, or on a cluster, that nobody else uses."""
    limit = min(node.limit for node in backend.log.node_memory())
    most = 300
    monkeypatch.setattr(key_limit, "MAX_SHARD_SHARE", most * IDEMPOTENCY_KEY_BYTES / limit)
    greedy, other = (backend.catalog.applications.create(name).token for name in "ab")
    while backend.counters.shard(other) == backend.counters.shard(greedy):
        other = backend.catalog.applications.create("b").token
    for token in (greedy, other):
        backend.acceptor.accept(AcceptRequest.chats(token))
    for first in range(0, 3 * most, most):
        requests = [keyed(greedy, number) for number in range(first, first + most)]
        assert not any(isinstance(a, Exception) for a in backend.acceptor.accept_batch(requests))
    backend.acceptor.refresh()
    with pytest.raises(LogFull, match="too many idempotency keys"):
        backend.acceptor.accept(keyed(greedy, "one more"))
    backend.acceptor.accept(AcceptRequest.message(Parent(greedy, 1), "x"))
    backend.acceptor.accept(keyed(other, "of another shard"))
    shard = backend.counters.shard(greedy)
    for number in range(3 * most):
        name = keyed(greedy, number).key
        backend.log._execute(key := backend.log.key(shard, f"key:{name}"), "DEL", key)
    backend.acceptor.refresh()
    backend.acceptor.accept(keyed(greedy, "one more"))


def test_a_key_takes_a_bounded_part_of_memory_for_a_day(backend: Backend, application: str) -> None:
    """However long it is, and whatever the numbers are."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    shard = backend.counters.shard(application)
    backend.log.raise_all(
        shard, backend.epochs.read(shard), {Parent(application, 1): 10**14 - 2_000}, create=False
    )
    request = AcceptRequest.messages(
        application, 1, ["x"] * 1_000, key="\N{GRINNING FACE}" * 255, route="messages/batch"
    )
    assert backend.acceptor.accept(request).first > 10**13
    key = backend.log.key(shard, f"key:{request.key}")
    used = backend.log._execute(key, "MEMORY", "USAGE", key)
    assert used + EXPIRY_BYTES <= IDEMPOTENCY_KEY_BYTES
    assert 0 < backend.log._execute(key, "TTL", key) <= 24 * 60 * 60
