"""Workers: what they know of a pause while the Redis that says so is away, and what they log."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from backend.bootstrap import open_backend
from backend.domain.errors import EngineDown
from backend.ingest.requests import AcceptRequest
from backend.settings import as_environment
from backend.storage.redis.keys import PAUSED_KEY
from backend.storage.redis.workers import Workers, WorkersState
from tests.conftest import Engines
from tests.support.engines import RedisServer
from tests.support.fork_server import start_module
from tests.support.program_logs import MARKER, program_logs
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def workers(own_redis: RedisServer) -> Iterator[Workers]:
    """On a Redis that the test may stop."""
    with closing(Workers(own_redis.url)) as workers:
        yield workers


@pytest.mark.parametrize("paused", [False, True])
def test_the_last_state_holds_while_redis_is_away(
    workers: Workers, own_redis: RedisServer, paused: bool
) -> None:
    """A worker that was not paused goes on; the truth is read again once Redis is back."""
    workers.record_heartbeat("w")
    if paused:
        workers.pause()
    assert workers.state() == WorkersState(are_running=True, are_paused=paused)
    own_redis.kill()
    assert workers.state() == WorkersState(are_running=True, are_paused=paused)
    assert workers.may_work() is not paused
    with pytest.raises(EngineDown):
        workers.paused()

    own_redis.start()
    workers.redis.flushall()
    wait_until(lambda: workers.state() == WorkersState(are_running=False, are_paused=False))
    assert workers.may_work()


def test_a_worker_that_has_never_read_the_state_does_nothing(own_redis: RedisServer) -> None:
    """It may be paused."""
    own_redis.kill()
    with closing(Workers(own_redis.url)) as workers:
        assert workers.state() == WorkersState(None, None)
        assert not workers.may_work()


def test_a_dead_node_of_a_cluster_stops_no_worker_and_no_wait(
    engines: Engines, redis_cluster: RedisCluster
) -> None:
    """Not even the node whose slots have the names of these keys."""
    dead = redis_cluster.master_of(PAUSED_KEY)
    with open_backend(engines.on_cluster(redis_cluster)) as backend:
        while True:
            token = backend.catalog.applications.create("x").token
            key = backend.log.key(backend.counters.shard(token), "log")
            if redis_cluster.master_of(key) is not dead:
                break
        dead.kill()
        assert backend.workers.may_work()
        accepted = backend.acceptor.accept(AcceptRequest.chats(token))
        assert backend.catalog.waiting.wait_stored(token, accepted, 30)
        backend.workers.pause()
        assert not backend.workers.may_work()


FAILING_ROWS = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'the disk is broken' USING ERRCODE = 'XX001'; END $$;
CREATE TRIGGER failing BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION fail()
"""


def test_an_unexpected_error_while_rows_are_written_quotes_none_of_them(
    engines: Engines, tmp_path: Path
) -> None:
    """PostgreSQL's message has the line that COPY was reading: the chat's id, and the beginning of a text."""
    settings = engines.installation()
    log = tmp_path / "log"
    with open_backend(settings) as backend:
        with backend.database.begin() as tx:
            tx.execute(text(FAILING_ROWS))
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        backend.acceptor.accept(AcceptRequest.messages(token, 1, [MARKER]))
    with log.open("wb") as stderr:
        worker = start_module(
            "instachat_cli",
            "worker",
            environment=os.environ | as_environment(settings),
            stderr=stderr,
        )
    try:
        wait_until(lambda: "XX001" in log.read_text())
    finally:
        worker.kill()
        worker.wait()
    program_logs.check()
