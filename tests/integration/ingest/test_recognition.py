"""A Redis without this installation's numbers: whether it issues them, or is refused until it is adopted."""

import asyncio
import shutil
from collections.abc import Iterator
from http import HTTPStatus

import pytest
import redis

from backend.api.health.history import History
from backend.api.health.page import status_page_html
from backend.api.health.poller import HealthPoller
from backend.bootstrap import Backend, open_backend
from backend.domain.errors import UnknownRedis, WrongRedis
from backend.ingest.requests import AcceptRequest
from backend.monitoring.summary import HealthState, group_figures, summarize
from backend.settings import Settings
from tests.conftest import Engines
from tests.http.test_connection import serve_in_process
from tests.http.test_fast_searches import send
from tests.support.engines import RedisServer, valkey_binary
from tests.support.redis_cluster import RedisCluster


@pytest.fixture
def settings(engines: Engines, own_redis: RedisServer) -> Iterator[Settings]:
    """Settings on a new database and a Redis that the test may restart."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    yield settings
    engines.drop_database(settings)


@pytest.fixture
def token(settings: Settings) -> str:
    """An application whose chat 1 has two stored messages; no process has its Redis open any more."""
    with open_backend(settings) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token))
        assert send_message(core, token) == 1
        assert send_message(core, token) == 2
        core.drainer.drain_all()
    return token


def send_message(core: Backend, token: str) -> int:
    """Accept a message in chat 1; returns its number."""
    return core.acceptor.accept(AcceptRequest.messages(token, 1, ["x"])).first


def restart_empty(server: RedisServer) -> None:
    """Restart the server without its data."""
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)
    server.start()


def another_database(settings: Settings) -> Settings:
    """The settings with another database of the same Redis server."""
    return settings.model_copy(update={"redis_url": f"{settings.redis_url}/5"})


def test_another_database_of_the_server_is_refused(settings: Settings, token: str) -> None:
    """Neither a creation nor a drain nor a list of counts gives it an epoch, and nothing is written to it."""
    wrong = another_database(settings)
    with open_backend(wrong) as core:
        for attempt in (
            lambda: send_message(core, token),
            lambda: core.acceptor.accept(AcceptRequest.chats(token)),
            lambda: core.drainer.drain(core.routing.shard(token)),
            lambda: core.epochs.renew(core.routing.shard(token)),
            lambda: core.catalog.chats.get(token, 1),
            core.epochs.recognition.refuse_wrong,
        ):
            with pytest.raises(UnknownRedis, match="does not know this installation") as refused:
                attempt()
            assert "adopt-redis" in str(refused.value.hint)
        assert redis.Redis.from_url(str(wrong.redis_url)).keys("*epoch*") == []
    with open_backend(settings) as core:
        assert send_message(core, token) == 3


def test_the_health_says_first_that_redis_is_refused(
    engines: Engines, settings: Settings, token: str
) -> None:
    """With what to do, and without an address; what the wrong Redis has counts as unknown."""
    other = settings.model_copy(update={"database_url": engines.fresh_database()})
    for wrong, headline, advice in (
        (another_database(settings), "This Redis does not know this installation", "adopt-redis"),
        (other, "This Redis is another installation's", "INSTACHAT_DATABASE_URL"),
    ):
        with open_backend(wrong) as core:
            snapshot = asyncio.run(HealthPoller(core).poll())
        assert (snapshot.away, snapshot.unusable) == (["Redis"], True)
        summary = summarize(group_figures(snapshot))
        assert (summary.state, summary.sentence) == (HealthState.CRITICAL, headline)
        assert advice in summary.advice[0]
        assert "127.0.0.1" not in status_page_html(snapshot, History())
        assert snapshot.status is not None
        assert (snapshot.status.waiting, snapshot.status.totals.accepted) == (None, None)
    with open_backend(settings) as core:
        assert not asyncio.run(HealthPoller(core).poll()).unusable
        assert send_message(core, token) == 3


def test_a_shard_without_an_epoch_is_refused_there_too(settings: Settings, token: str) -> None:
    """Nothing was ever issued in that shard, but the installation has a Redis."""
    with open_backend(another_database(settings)) as core:
        used = core.routing.shard(token)
        unused = next(shard for shard in core.database.installation.all_shards if shard != used)
        with pytest.raises(UnknownRedis):
            core.epochs.begin_epoch(unused, "test")
    with open_backend(settings) as core:
        core.epochs.begin_epoch(unused, "test")


def test_a_server_that_was_only_emptied_is_recognised(
    settings: Settings, token: str, own_redis: RedisServer
) -> None:
    """Also by a process that has not seen it before: SQL has its name. Its other database is refused."""
    own_redis.client().flushall()
    with open_backend(another_database(settings)) as core, pytest.raises(UnknownRedis):
        send_message(core, token)
    with open_backend(settings) as core:
        assert send_message(core, token) == 3


def test_a_process_that_knows_its_redis_continues_when_it_comes_back_empty(
    settings: Settings, token: str, own_redis: RedisServer
) -> None:
    """One that starts then is refused, until the other one has begun an epoch."""
    with open_backend(settings) as known:
        assert send_message(known, token) == 3
        known.drainer.drain_all()
        restart_empty(own_redis)
        with open_backend(settings) as core:
            with pytest.raises(UnknownRedis):
                send_message(core, token)
            assert send_message(known, token) == 4
            assert send_message(core, token) == 5


def test_an_idle_server_process_has_looked_for_its_redis(
    settings: Settings, token: str, own_redis: RedisServer
) -> None:
    """It has accepted nothing before the loss, and refreshes once a second."""
    with open_backend(settings) as core:
        core.epochs.recognition.look()
        restart_empty(own_redis)
        assert core.epochs.recognition.find_refusal() is None
        assert send_message(core, token) == 3


def test_an_operator_adopts_a_redis_that_lost_its_data(
    settings: Settings, token: str, own_redis: RedisServer
) -> None:
    """Each shard has an epoch then, and numbers continue above the stored ones, in every process."""
    restart_empty(own_redis)
    with open_backend(settings) as core:
        assert isinstance(core.epochs.recognition.find_wrong(), UnknownRedis)
        core.epochs.adopt()
        shards = core.database.installation.all_shards
        assert {core.log.probe(shard).status for shard in shards} == {"ok"}
    with open_backend(settings) as core:
        assert core.epochs.recognition.find_wrong() is None
        assert send_message(core, token) == 3


def test_no_adoption_takes_the_redis_of_another_installation(
    engines: Engines, settings: Settings, token: str
) -> None:
    """Its numbers would be issued twice."""
    other = settings.model_copy(update={"database_url": engines.fresh_database()})
    with open_backend(other) as core, pytest.raises(WrongRedis, match="another installation"):
        core.epochs.adopt()
    with open_backend(settings) as core:
        assert send_message(core, token) == 3


def test_epochs_of_an_earlier_release_are_recognised_by_their_numbers(
    settings: Settings, token: str, own_redis: RedisServer
) -> None:
    """It did not record in which server it began them, so a loss before the next epoch has to be adopted."""
    with open_backend(settings) as core:
        with core.database.begin() as tx:
            tx.exec_driver_sql("UPDATE shard SET epoch_server = NULL")
        assert send_message(core, token) == 3
        core.drainer.drain_all()
    own_redis.client().flushall()
    with open_backend(settings) as core, pytest.raises(UnknownRedis):
        send_message(core, token)


def test_a_server_that_finds_an_unknown_redis_answers_503(settings: Settings, token: str) -> None:
    """Without the address and the hint, which the log has."""
    messages = f"/api/v1/applications/{token}/chats/1/messages"
    with serve_in_process(another_database(settings)) as server:
        for _ in range(2):
            answer = send(server.port, "POST", messages, b'{"message": {"text": "x"}}')
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert answer.headers["retry-after"] == "1"
            assert "127.0.0.1" not in answer.json["detail"]


def test_nodes_of_a_cluster_are_recognised_together(
    engines: Engines, redis_cluster: RedisCluster
) -> None:
    """A shard may begin on a node that has nothing of the installation; an unknown cluster is refused."""
    settings = engines.on_cluster(redis_cluster)
    with open_backend(settings) as core:
        token = core.catalog.applications.create("test").token
    with open_backend(settings) as core:
        for shard in core.database.installation.all_shards:
            core.epochs.begin_epoch(shard, "test")
    redis_cluster.flush()
    with open_backend(settings) as core:
        assert core.acceptor.accept(AcceptRequest.chats(token)).first == 1
    server = RedisServer(valkey_binary())
    try:
        server.start()
        elsewhere = settings.model_copy(update={"redis_url": server.url})
        with open_backend(elsewhere) as core, pytest.raises(UnknownRedis):
            core.acceptor.accept(AcceptRequest.chats(token))
    finally:
        server.remove()
