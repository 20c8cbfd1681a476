"""Accepting with a cluster, with replicas, with lost replies, and with concurrent requests."""

import asyncio
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import (
    EngineDown,
    Failed,
    Invalid,
    KeyReused,
    NotFound,
    Unconfirmed,
    WrongRedis,
)
from backend.domain.model import Accepted, EntryId
from backend.ingest.accept import Acceptor
from backend.ingest.backlog_limit import BacklogLimit
from backend.ingest.epochs import Epochs
from backend.ingest.key_limit import KeyLimit
from backend.ingest.requests import AcceptRequest
from backend.monitoring.status import read_totals
from backend.settings import Durability
from backend.storage.redis.accept_async import AsyncAcceptClient
from backend.storage.redis.async_client import ReplyProtocol
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import Change, Subscription
from backend.storage.redis.types import ShardBatch
from tests.conftest import Engines
from tests.support.engines import RedisServer, free_port, valkey_binary
from tests.support.redis_copy import copy_redis

CLUSTER = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")


@pytest.fixture
def replica(own_redis: RedisServer) -> Iterator[RedisServer]:
    """A replica of the test's own Redis that has all its data."""
    server = RedisServer(valkey_binary(), "--replicaof", "127.0.0.1", str(own_redis.port))
    server.start()
    try:
        in_step = own_redis.client()
        in_step.set("in step", 1)
        while in_step.execute_command("WAITAOF", 1, 1, 1000) != [1, 1]:
            in_step.incr("in step")
        yield server
    finally:
        server.remove()


def test_the_scripts_run_on_a_cluster(engines: Engines) -> None:
    """All keys of a call are in one slot. The queue uses a plain Redis."""
    # By default its bus listens at its port + 10,000, which may not be a valid port.
    node = RedisServer(valkey_binary(), *CLUSTER, "--cluster-port", str(free_port()))
    node.start()
    try:
        node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while "cluster_state:ok" not in str(node.client().execute_command("CLUSTER", "INFO")):
            pass
        settings = engines.settings().model_copy(
            update={
                "redis_url": node.url.replace("redis://", "redis+cluster://"),
                "huey_url": engines.redis.url,
            }
        )
        with open_backend(settings) as backend, closing(Subscription(backend.log.url)) as changes:
            tokens = [backend.catalog.applications.create(f"{n}").token for n in range(20)]
            for token in tokens:
                backend.acceptor.accept(AcceptRequest.chats(token, 2))
                backend.acceptor.accept(AcceptRequest.messages(token, 2, ["a", "b"]))
            backend.drainer.drain_all()
            assert [len(list(backend.catalog.messages.list(t, 2))) for t in tokens] == [2] * 20
            named: set[Change] = set()
            while len(named) < 20:
                named.update(changes.read(1))
            assert named == {Change(token, 2) for token in tokens}
            assert len(list(backend.counter_sync.sync())) == 2 * 20
            assert read_totals(backend.database, backend.log).accepted == 4 * 20
            backend.catalog.applications.delete(tokens[0], cascade=True)
            assert backend.cascade_deleter.delete_all() == 2
            backend.workers.pause()
            assert backend.workers.paused()
    finally:
        node.remove()


def test_a_node_of_a_cluster_needs_the_url_of_a_cluster(engines: Engines) -> None:
    """A plain connection to it would fail whenever a batch has several shards."""
    node = RedisServer(valkey_binary(), *CLUSTER, "--cluster-port", str(free_port()))
    node.start()
    try:
        settings = engines.settings().model_copy(update={"redis_url": node.url})
        with open_backend(settings) as backend:
            with pytest.raises(Failed, match="node of a Redis Cluster"):
                backend.log.refuse_cluster_node()
            chats = [ShardBatch(shard, [], EntryId(0, 0)) for shard in (1, 2)]
            refused = backend.log.accept_each(chats)
        assert [type(error) for error in refused] == [Failed, Failed]
    finally:
        node.remove()


def test_a_cluster_requires_a_separate_redis_for_the_queue(engines: Engines) -> None:
    """Huey's keys are not in one slot."""
    settings = engines.settings().model_copy(update={"redis_url": "redis+cluster://127.0.0.1:1"})
    with pytest.raises(Invalid) as caught, open_backend(settings):
        pass
    assert "INSTACHAT_HUEY_URL" in str(caught.value.hint)


def test_an_answer_waits_until_durable_replicas_have_synced_to_disk(
    engines: Engines, own_redis: RedisServer, replica: RedisServer
) -> None:
    """If the replica does not answer, the request is Unconfirmed, because the message could be lost."""
    settings = engines.settings().model_copy(
        update={"redis_url": own_redis.url, "durable_replicas": 1}
    )
    with open_backend(settings) as backend:
        token = backend.catalog.applications.create("x").token
        assert backend.acceptor.accept(AcceptRequest.chats(token)).first == 1
        replica.stop()
        backend.log.redis.config_set("repl-timeout", 1)
        with pytest.raises(Unconfirmed, match="replicas"):
            backend.acceptor.accept(AcceptRequest.chats(token))


def test_on_an_event_loop_an_answer_waits_for_replicas_too(
    engines: Engines,
    own_redis: RedisServer,
    replica: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the connection of the script, and after its reply: otherwise the replica replies a second later."""
    settings = engines.settings().model_copy(
        update={"redis_url": own_redis.url, "durable_replicas": 1}
    )

    sent: list[list[bool]] = []

    async def accept(acceptor: Acceptor, log: Log) -> object:
        client = AsyncAcceptClient(log)
        exchange_all = client.exchange_all

        async def recording(replies: ReplyProtocol, calls: Sequence[bytes]) -> list[object]:
            sent.append([b"WAITAOF" in call for call in calls])
            return await exchange_all(replies, calls)

        monkeypatch.setattr(client, "exchange_all", recording)
        try:
            received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            acceptor.try_accept_soon([AcceptRequest.chats(token)], client, received.set_result)
            (answer,) = await received
        finally:
            await client.close()
        return answer

    with open_backend(settings) as backend:
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))  # its counter is verified then
        assert isinstance(asyncio.run(accept(backend.acceptor, backend.log)), Accepted)
        *_, script, waits = sent
        assert (set(script), set(waits)) == ({False}, {True})
        replica.stop()
        backend.log.redis.config_set("repl-timeout", 1)
        unconfirmed = asyncio.run(accept(backend.acceptor, backend.log))
        assert isinstance(unconfirmed, Unconfirmed)
        assert "replicas" in unconfirmed.message


@pytest.mark.parametrize("is_one_refused", [False, True])
def test_on_an_event_loop_messages_of_many_chats_are_one_call(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, is_one_refused: bool
) -> None:
    """Each gets a number of its own chat, and one that is refused leaves the others as they are."""
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(20)]
    for request in map(AcceptRequest.chats, tokens):
        backend.acceptor.accept(request)
    for token in tokens[:10]:
        backend.acceptor.accept(AcceptRequest.messages(token, 1, ["the first"]))
    backend.drainer.drain_all()
    notified: set[int] = set()
    acceptor = backend.acceptor.with_notify(notified.add)
    sent: list[int] = []
    send = AsyncAcceptClient.accept_messages_soon

    def recording(self: AsyncAcceptClient, messages: Any, *arguments: Any) -> None:
        sent.append(sum(map(len, messages.values())))
        send(self, messages, *arguments)

    monkeypatch.setattr(AsyncAcceptClient, "accept_messages_soon", recording)

    async def accept() -> list[Any]:
        missing = AcceptRequest.messages(tokens[0], 2, ["of a chat that is not there"])
        requests = [AcceptRequest.messages(token, 1, [f"of {token}"]) for token in tokens]
        if is_one_refused:
            requests.insert(5, missing)
        client = AsyncAcceptClient(backend.log)
        answers: list[Any] = []
        for batch in ([missing], requests):  # the first one connects
            received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            acceptor.try_accept_soon(batch, client, received.set_result)
            answers = await received
        await client.close()
        return answers

    answers = asyncio.run(accept())
    assert sent == [len(answers)]
    if is_one_refused:
        assert answers.pop(5) is None
    assert [(answer.first, answer.last) for answer in answers] == [(2, 2)] * 10 + [(1, 1)] * 10
    assert {answer.shard for answer in answers} == set(map(backend.counters.shard, tokens))
    assert notified >= {answer.shard for answer in answers}
    backend.drainer.drain_all()
    for token in tokens:
        assert [m.text for m in backend.catalog.messages.list(token, 1)][-1] == f"of {token}"


def test_fast_durability_waits_for_no_replica(engines: Engines) -> None:
    settings = engines.settings(durability=Durability.FAST, durable_replicas=3)
    with open_backend(settings) as backend:
        token = backend.catalog.applications.create("x").token
        assert backend.acceptor.accept(AcceptRequest.chats(token)).first == 1


@pytest.fixture
def lossy_port(engines: Engines) -> Iterator[int]:
    """A port that forwards calls to Redis, and closes the connection in place of each script's reply."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", engines.redis.port)) as server:
            asked = False
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data or (asked and ready is server):
                        return
                    asked = asked or b"EVALSHA" in data
                    (server if ready is client else client).sendall(data)

    def accept_clients() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept_clients, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_call_whose_reply_is_lost_is_unconfirmed_and_not_repeated(
    backend: Backend, application: str, lossy_port: int
) -> None:
    """The connection breaks between the call and its reply: exactly one number is issued."""
    epochs = Epochs(backend.log, backend.database)
    lossy = Log(f"redis://127.0.0.1:{lossy_port}")
    limit = BacklogLimit(lossy, backend.database)
    acceptor = Acceptor(
        lossy, epochs, backend.routing, backend.counters, limit, KeyLimit(lossy), lambda _: None
    )
    with pytest.raises(Unconfirmed, match="not known"):
        acceptor.accept(AcceptRequest.chats(application))
    assert backend.acceptor.accept(AcceptRequest.chats(application)).first == 2


def test_a_call_that_was_not_sent_is_not_unconfirmed(backend: Backend, application: str) -> None:
    """Redis is unreachable, so nothing was accepted; the error does not contain the password."""
    epochs = Epochs(backend.log, backend.database)
    nowhere = Log("redis://:secret@127.0.0.1:1")
    limit = BacklogLimit(nowhere, backend.database)
    acceptor = Acceptor(
        nowhere, epochs, backend.routing, backend.counters, limit, KeyLimit(nowhere), lambda _: None
    )
    with pytest.raises(EngineDown) as caught:
        acceptor.accept(AcceptRequest.chats(application))
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    assert "INSTACHAT_REDIS_URL" in str(caught.value.hint)


def test_a_redis_of_another_installation_is_refused(engines: Engines) -> None:
    """Two databases on one Redis would issue the same numbers."""
    first = engines.settings()
    with open_backend(first) as backend:
        token = backend.catalog.applications.create("x").token
        shard = backend.counters.shard(token)
    second = first.model_copy(update={"database_url": engines.fresh_database()})
    with open_backend(second) as backend:
        with pytest.raises(WrongRedis, match="another installation"):
            Epochs(backend.log, backend.database).begin_epoch(shard, "test")
        with pytest.raises(WrongRedis, match="another installation"):
            backend.drainer.drain(shard)


def test_chats_of_different_applications_have_separate_counters(backend: Backend) -> None:
    """A counter keyed by the chat's number alone would be shared by every application."""
    tokens = [backend.catalog.applications.create(name).token for name in "ab"]
    for token in tokens:
        assert backend.acceptor.accept(AcceptRequest.chats(token)).first == 1
        assert backend.acceptor.accept(AcceptRequest.messages(token, 1, ["x"])).first == 1


def test_concurrent_requests_get_different_numbers(backend: Backend, application: str) -> None:
    """Sixteen threads of one process write to one chat: they get 1 to 1,600, each number once."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    request = AcceptRequest.messages(application, 1, ["x"])
    with ThreadPoolExecutor(16) as pool:
        given = [pool.submit(backend.acceptor.accept, request) for _ in range(1600)]
        assert sorted(g.result().first for g in given) == list(range(1, 1601))


def test_each_request_of_a_batch_has_its_own_result(backend: Backend) -> None:
    """The batch has requests of many applications, some of them for unknown parents."""
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(5)]
    requests = [AcceptRequest.chats(token) for token in tokens]
    requests += [
        AcceptRequest.messages(tokens[0], 1, ["a"]),
        AcceptRequest.messages(tokens[1], 9, ["b"]),
    ]
    requests += [AcceptRequest.chats("x" * 32), AcceptRequest.chats(tokens[0])]
    answers = backend.acceptor.accept_batch(requests)
    firsts = [a.first if isinstance(a, Accepted) else type(a) for a in answers]
    assert firsts == [1, 1, 1, 1, 1, 1, NotFound, NotFound, 2]


def test_a_request_with_a_known_idempotency_key_creates_nothing(
    backend: Backend, application: str
) -> None:
    """It returns the first answer. Another body is a conflict; each route has its own keys."""
    first = backend.acceptor.accept(AcceptRequest.chats(application, 3, key="k"))
    assert backend.acceptor.accept(AcceptRequest.chats(application, 3, key="k")) == first
    with pytest.raises(KeyReused):
        backend.acceptor.accept(AcceptRequest.chats(application, 4, key="k"))
    assert (
        backend.acceptor.accept(AcceptRequest.messages(application, 1, ["a"], key="k")).first == 1
    )
    assert backend.acceptor.accept(AcceptRequest.chats(application)).first == 4


def test_an_idempotency_key_expires_after_a_day(backend: Backend, application: str) -> None:
    """This bounds the memory that keys take."""
    backend.acceptor.accept(AcceptRequest.chats(application, key="k"))
    keys = list(backend.log.redis.scan_iter(match="*:key:*"))
    assert len(keys) == 1
    assert 86_000 < int(backend.log.redis.ttl(keys[0])) <= 86_400


@pytest.mark.parametrize(
    "make",
    [
        lambda token: AcceptRequest.messages(token, 1, []),
        lambda token: AcceptRequest.messages(token, 1, ["x"] * 1001),
        lambda token: AcceptRequest.messages(token, 1, [""]),
        lambda token: AcceptRequest.messages(token, 1, ["x" * 10_001]),
        lambda token: AcceptRequest.messages(token, 1, ["nul\0"]),
        lambda token: AcceptRequest.messages(token, 1, ["half \ud800"]),
        lambda token: AcceptRequest.chats(token, 0),
        lambda token: AcceptRequest.chats(token, 1001),
        lambda token: AcceptRequest.chats(token, key=""),
        lambda token: AcceptRequest.chats(token, key="k" * 256),
    ],
)
def test_invalid_input_is_rejected_before_anything_is_sent(
    backend: Backend, application: str, make: Callable[[str], AcceptRequest]
) -> None:
    """Redis does not change."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    before = copy_redis(backend.log.redis)
    with pytest.raises(Invalid):
        backend.acceptor.accept(make(application))
    assert copy_redis(backend.log.redis) == before


@pytest.mark.parametrize(
    "text", ["x", "x" * 10_000, "🏳️‍🌈" * 1000, "\x01\x7f\u2028", " ", "\\.", "\\N"]
)
def test_every_valid_text_is_stored_unchanged_by_accept_and_drain(
    backend: Backend, application: str, text: str
) -> None:
    """Neither JSON nor COPY changes it."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    backend.acceptor.accept(AcceptRequest.messages(application, 1, [text, text]))
    backend.drainer.drain_all()
    assert [m.text for m in backend.catalog.messages.list(application, 1)] == [text, text]
