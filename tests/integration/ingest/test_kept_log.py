"""What is stored stays in the log for a time, and takes no room that accepting needs."""

import pytest

from backend.bootstrap import Backend, open_backend
from backend.ingest.kept_log import KeptLog
from backend.ingest.requests import AcceptRequest
from backend.monitoring.status import read_status
from backend.storage.redis.log import Log
from tests.support.engines import RedisServer
from tests.support.faults.shortcuts import send

TEXT = "x" * 1000
MIB = 1024 * 1024


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """The token of an application with a chat that is stored."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    return application


def entries(backend: Backend, token: str) -> int:
    """How many entries the log of an application's shard holds."""
    shard = backend.counters.shard(token)
    return backend.log.sizes([shard])[shard].entries


def test_stored_entries_stay_and_count_as_stored(backend: Backend, chat: str) -> None:
    for text in "abc":
        send(backend, chat, text)
    backend.drainer.drain_all()
    assert entries(backend, chat) == 5, "with those of the application and the chat"
    assert backend.drainer.drain_all() == 0, "each entry is read once"
    status = read_status(backend.database, backend.log, backend.workers, lambda: 0)
    assert (status.waiting, status.oldest_seconds) == (0, None)
    send(backend, chat, "d")
    status = read_status(backend.database, backend.log, backend.workers, lambda: 0)
    assert status.waiting == 1
    assert status.oldest_seconds is not None


def test_without_a_retention_stored_entries_are_deleted_at_once(
    backend: Backend, chat: str
) -> None:
    backend.log.retention_seconds = 0
    send(backend, chat, "a")
    backend.drainer.drain_all()
    assert entries(backend, chat) == 0


def test_a_sweep_trims_a_shard_for_which_nothing_is_accepted(backend: Backend, chat: str) -> None:
    backend.drainer.drain_all()
    assert entries(backend, chat) == 2
    backend.log.retention_seconds = 0
    KeptLog(backend.log, backend.database, 1.0).trim_all()
    assert entries(backend, chat) == 0


@pytest.mark.parametrize(("share", "left"), [(1.0, 202), (0.0, 100)])
def test_kept_entries_take_at_most_their_share_of_the_memory(
    backend: Backend, chat: str, share: float, left: int
) -> None:
    """What is not stored yet stays, whatever it takes."""
    for _ in range(100):
        send(backend, chat, TEXT)
    backend.drainer.drain_all()
    for _ in range(100):
        send(backend, chat, TEXT)
    KeptLog(backend.log, backend.database, share).trim_all()
    assert entries(backend, chat) == left
    backend.drainer.drain_all()
    assert len(list(backend.catalog.messages.list(chat, 1))) == 200


def test_kept_entries_give_way_before_accepting_is_refused(backend: Backend, chat: str) -> None:
    """A Redis that is nearly full deletes them, also if they take less than their share."""
    for _ in range(200):
        send(backend, chat, TEXT)
    backend.drainer.drain_all()
    client = backend.log.redis
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", int(used / 0.8))
    try:
        KeptLog(backend.log, backend.database, 1.0).trim_all()
    finally:
        client.config_set("maxmemory", 0)
    assert entries(backend, chat) < 202


def test_without_a_worker_a_drain_trims_as_a_worker_would(
    backend: Backend, application: str
) -> None:
    """A command that drains leaves what a worker's sweep leaves; beside a worker it trims nothing."""
    settings = backend.settings.model_copy(update={"log_retention": "10m/0%"})
    other = backend.catalog.applications.create("of another shard").token
    backend.drainer.drain_all()
    backend.workers.record_heartbeat("w")
    with open_backend(settings) as command:
        command.catalog.waiting.drain_without_worker(application)
        command.catalog.applications.rename(application, "beside a worker")
    assert entries(backend, other)
    backend.workers.remove("w")
    with open_backend(settings) as command:
        command.catalog.applications.rename(application, "without a worker")
    for token in (application, other):
        assert entries(backend, token) == 0


def test_the_memory_of_a_redis_without_a_limit_is_that_of_its_machine(
    own_redis: RedisServer,
) -> None:
    log = Log(own_redis.url)
    (node,) = log.node_memory()
    assert node.limit > node.used > 0
    own_redis.client().config_set("maxmemory", 64 * MIB)
    assert log.node_memory()[0].limit == 64 * MIB
    log.close()
