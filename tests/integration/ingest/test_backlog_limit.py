"""The bytes of a log that is not stored: of one shard they leave Redis's memory to the others."""

import pytest

from backend.bootstrap import open_backend
from backend.domain.errors import LogFull
from backend.domain.model import MAX_TEXT
from backend.ingest.requests import AcceptRequest
from tests.conftest import Engines
from tests.support.engines import RedisServer
from tests.support.faults.shortcuts import send, stored

pytestmark = pytest.mark.faults
MEMORY_BYTES = 12 * 1024 * 1024


def test_a_shard_whose_log_takes_much_memory_leaves_the_rest_to_others(
    engines: Engines, own_redis: RedisServer
) -> None:
    """It is refused at a quarter of Redis's memory, and accepted again once its log is stored."""
    client = own_redis.client()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + MEMORY_BYTES)
    settings = engines.settings().model_copy(update={"redis_url": own_redis.url})
    with open_backend(settings) as backend:
        greedy, other = (
            backend.catalog.applications.create(name).token for name in ("greedy", "other")
        )
        while backend.counters.shard(other) == backend.counters.shard(greedy):
            other = backend.catalog.applications.create("other").token
        for token in (greedy, other):
            backend.acceptor.accept(AcceptRequest.chats(token))
        sent = 0

        def fill() -> None:
            nonlocal sent
            while sent < 1_200:  # 12 MB
                sent = send(backend, greedy, *["x" * MAX_TEXT] * 100) + 99
                backend.acceptor.refresh()

        with pytest.raises(LogFull, match="too much memory"):
            fill()
        used = int(client.info("memory")["used_memory"])
        assert used < 0.6 * int(client.info("memory")["maxmemory"])
        assert send(backend, other, "accepted") == 1
        backend.drainer.drain_all()
        backend.acceptor.refresh()
        assert send(backend, greedy, "again") == sent + 1
        assert len(stored(backend, greedy)) == sent
