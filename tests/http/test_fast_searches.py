"""Searches with Elasticsearch on the fast path: they answer as the ordinary route does, and fail alone."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.api.server import indexed_search
from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.search.refresh import Refresher
from backend.settings import Settings
from backend.storage.elasticsearch import index as elasticsearch_index
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.database import Database
from tests.conftest import Engines
from tests.http.conftest import migrated_database
from tests.http.test_connection import BODY, connect_raw, request, serve_in_process
from tests.http.test_fast_reads import Chat, agree
from tests.http.test_metrics import samples, value
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.gate import SearchGate
from tests.support.elasticsearch.requests import publisher
from tests.support.engines import PostgresServer, RedisServer, valkey_binary
from tests.support.http_server import HttpResponse, exchange, running_server
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import PATIENCE_SECONDS, promised, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("elasticsearch")]
TEXTS = [
    *["plain", 'quotes " and \\', "ünïcode \U0001f600", "ab ba abba", "the end"] * 50,
    "a" * 9_999,
]
SHOWN, WAITING, CHANGED, EMPTY, UNKNOWN = 1, 2, 3, 4, 5  # chats


def show(core: Backend) -> None:
    """Publish everything, and refresh, so that no chat has a tail."""
    assert core.index is not None
    publisher(core).publish()
    Refresher(core.database, core.index).refresh(0)


@contextmanager
def running_chat(
    database_url: str, redis: RedisServer, gate: SearchGate, folder: Path
) -> Iterator[Chat]:
    """A server without a worker. The index shows one chat, nothing of another, and old texts of a third."""
    values = Settings(database_url=database_url, redis_url=redis.url, elasticsearch_url=gate.url)
    with open_backend(values) as core:
        token = core.catalog.applications.create("searched").token
        core.acceptor.accept(AcceptRequest.chats(token, 4))
        for chat in (SHOWN, CHANGED):
            core.acceptor.accept(AcceptRequest.messages(token, chat, TEXTS))
        core.drainer.drain_all()
        show(core)
        core.acceptor.accept(AcceptRequest.messages(token, WAITING, TEXTS))
        core.drainer.drain_all()
        for number in range(1, 100, 7):
            core.catalog.messages.edit(token, CHANGED, number, {"text": "an abba at last"})
            core.catalog.messages.delete(token, CHANGED, number + 1)
    with running_server(values, folder) as server:
        yield Chat(server, f"/api/v1/applications/{token}")


@pytest.fixture
def gate(elasticsearch: Elasticsearch) -> Iterator[SearchGate]:
    """The way to Elasticsearch."""
    with closing(SearchGate(elasticsearch.url)) as gate:
        yield gate


@pytest.fixture(scope="module")
def shared_gate(elasticsearch: Elasticsearch) -> Iterator[SearchGate]:
    """The way to Elasticsearch, of the shared server."""
    with closing(SearchGate(elasticsearch.url)) as gate:
        yield gate


@pytest.fixture(scope="module")
def searched(
    engines: Engines, shared_gate: SearchGate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chat]:
    """The chats of a server that stays up."""
    redis = RedisServer(valkey_binary())
    redis.start()
    folder = tmp_path_factory.mktemp("searches")
    try:
        with running_chat(engines.fresh_database(), redis, shared_gate, folder) as chat:
            yield chat
    finally:
        redis.remove()


def search_path(chat: int, keyword: str = "abba", limit: int = 20) -> str:
    """The path of a search below the application."""
    return f"/chats/{chat}/messages?keyword={keyword}&limit={limit}"


def takes_fast_path(chat: Chat, gate: SearchGate, path: str, port: int | None = None) -> bool:
    """Whether the second statement of a search is executed, and no other route asks the index, too.

    The first read of a server opens the connections.
    """
    need_sessions()
    executed = sqlalchemy.text(
        "SELECT max(query_start) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE :query"
    )
    query = f"EXECUTE {grouped_reads.CANDIDATES.name}(%"
    with closing(Database(str(chat.server.settings.database_url))) as database:
        seen = gate.seen
        with database.connect() as connection:
            before = connection.scalar(executed, {"query": query})
        assert send(port or chat.server.port, "GET", chat.application + path).status == 200
        with database.connect() as connection:
            after = connection.scalar(executed, {"query": query})
        return after != before and gate.seen == seen + 1


def send(port: int, method: str, path: str, body: bytes | None = None, **more: str) -> HttpResponse:
    """The response of a server in this process; `more` headers have underscores for hyphens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    headers = {} if body is None else {"content-type": "application/json"}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    with closing(connection):
        return exchange(connection, method, path, body, headers)


KEYWORDS = st.text(st.sampled_from('abe ïÜ%+&"\\\U0001f600'), max_size=5).map(quote_plus)
PATHS = st.builds(
    "/chats/{}/messages?keyword={}&limit={}&after={}".format,
    st.integers(SHOWN, UNKNOWN),
    KEYWORDS | st.sampled_from(["the", "plain", "nowhere", "abba", "ba+abba"]),
    st.integers(1, 201),
    st.integers(0, len(TEXTS) + 1),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=PATHS)
def test_the_fast_path_and_the_route_answer_alike(searched: Chat, path: str) -> None:
    """Status, body and headers; and with the tag of the answer, the same 304."""
    found = agree(searched, path)
    assert found.status in (200, 404, 422)
    if found.status == 200:
        assert agree(searched, path, if_none_match=found.headers["etag"]).status == 304


@pytest.mark.parametrize("chat", [SHOWN, WAITING, CHANGED, EMPTY])
def test_plain_searches_take_the_fast_path(
    searched: Chat, shared_gate: SearchGate, chat: int
) -> None:
    """The comparison above would also hold if the ordinary route answered all of them."""
    wait_until(lambda: takes_fast_path(searched, shared_gate, search_path(chat)))


def test_a_search_that_waits_delays_nothing_else(
    searched: Chat, shared_gate: SearchGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other reads and creations are answered meanwhile; the metrics show how many searches run."""
    monkeypatch.setattr(elasticsearch_index, "SEARCH_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(indexed_search, "READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    path = searched.application + search_path(SHOWN)
    messages = f"{searched.application}/chats/{EMPTY}/messages"
    with (
        serve_in_process(searched.server.settings) as server,
        ThreadPoolExecutor(3) as threads,
    ):

        def is_running(searches: int) -> bool:
            metrics = send(server.port, "GET", "/metrics").body.decode()
            return f'instachat_pool_in_use{{pool="searches"}} {searches}.0' in metrics

        search = search_path(SHOWN)
        wait_until(lambda: takes_fast_path(searched, shared_gate, search, server.port))
        with shared_gate.holding("answer"):
            pending = [threads.submit(send, server.port, "GET", path) for _ in range(3)]
            shared_gate.wait_held(3)
            wait_until(lambda: is_running(3))
            assert send(server.port, "POST", messages, BODY).status == 202
            message = f"{searched.application}/chats/1/messages/1"
            assert send(server.port, "GET", message).status == 200
            assert not any(each.done() for each in pending)
        assert {each.result().status for each in pending} == {200}
        wait_until(lambda: is_running(0))


def test_a_client_that_closes_meanwhile_costs_nobody_anything(
    searched: Chat, shared_gate: SearchGate
) -> None:
    """Its search ends, and nothing is logged but its request."""
    server, path = searched.server, searched.application + search_path(SHOWN)
    before = len(server.stderr_text)
    with shared_gate.holding("answer"):
        for _ in range(3):
            with connect_raw(server) as to:
                to.send(request(path, b"Accept: */*", method=b"GET", body=b""))
                shared_gate.wait_held()
        other = agree(searched, search_path(WAITING))
    assert (other.status, other.json["complete"]) == (200, True)
    wait_until(lambda: value(samples(server), "instachat_pool_in_use", pool="searches") == 0)
    assert agree(searched, search_path(SHOWN)).status == 200
    assert "rror" not in server.stderr_text[before:]
    assert "arning" not in server.stderr_text[before:]


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_postgresql_a_search_that_the_index_has_answered_gets_503(
    own_postgres: PostgresServer,
    own_redis: RedisServer,
    gate: SearchGate,
    tmp_path: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the time of one request, with Retry-After; messages are accepted. Afterwards it is answered."""
    url = migrated_database(own_postgres)
    monkeypatch.setattr(elasticsearch_index, "SEARCH_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    with (
        running_chat(url, own_redis, gate, tmp_path) as chat,
        serve_in_process(chat.server.settings) as server,
        ThreadPoolExecutor(3) as threads,
    ):
        port, path = server.port, chat.application + search_path(SHOWN)
        messages = f"{chat.application}/chats/{EMPTY}/messages"
        assert send(port, "POST", messages, BODY).status == 202
        wait_until(lambda: takes_fast_path(chat, gate, search_path(SHOWN), port))
        found = send(port, "GET", path).body
        with gate.holding("answer"):
            pending = [threads.submit(send, port, "GET", path) for _ in range(3)]
            gate.wait_held()
            if how == "killed":
                own_postgres.kill()
            else:
                own_postgres.send_all(signal.SIGSTOP)
        assert send(port, "POST", messages, BODY).status == 202
        with promised(4):
            answers = [each.result() for each in pending]
        assert {(each.status, each.headers["retry-after"]) for each in answers} == {(503, "1")}
        if how == "killed":
            own_postgres.start()
        else:
            own_postgres.send_all(signal.SIGCONT)
        wait_until(lambda: send(port, "GET", path).status == 200)
        assert send(port, "GET", path).body == found


def test_the_fast_path_and_the_route_share_the_time_of_a_search(
    searched: Chat, shared_gate: SearchGate
) -> None:
    """PostgreSQL hangs twice, before the fast path passes a search on and afterwards: 503 after 4 seconds."""
    server, path = searched.server, searched.application + search_path(SHOWN)
    waiting = sqlalchemy.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE :query"
        " AND datname = current_database()"
    )
    query = f"EXECUTE {grouped_reads.SEARCH_STATES.name}(%"
    target = shared_gate.target
    wait_until(lambda: takes_fast_path(searched, shared_gate, search_path(SHOWN)))
    with (
        closing(Database(str(server.settings.database_url))) as database,
        database.connect() as watch,
        database.connect() as first,
        database.connect() as second,
        ThreadPoolExecutor(1) as threads,
    ):
        first.exec_driver_sql("BEGIN; LOCK TABLE outbox")
        second.exec_driver_sql("BEGIN; LOCK TABLE message")
        answer = threads.submit(server, "GET", path)
        try:
            wait_until(lambda: watch.scalar(waiting, {"query": query}))
            shared_gate.lead_to(Path("/nowhere"))
            wait([answer], 3.5)
            first.exec_driver_sql("ROLLBACK")
            wait([answer], 3.5)  # the route alone would take longer
        finally:
            second.exec_driver_sql("ROLLBACK")
            shared_gate.lead_to(target)
        assert answer.result().status == 503
    wait_until(lambda: takes_fast_path(searched, shared_gate, search_path(SHOWN)))


def test_a_server_that_stops_answers_its_searches(
    engines: Engines, own_redis: RedisServer, gate: SearchGate, tmp_path: Path
) -> None:
    """Also those whose index does not answer any more: PostgreSQL searches, and the process ends with 0."""
    with (
        running_chat(engines.fresh_database(), own_redis, gate, tmp_path) as chat,
        ThreadPoolExecutor(3) as threads,
    ):
        wait_until(lambda: takes_fast_path(chat, gate, search_path(SHOWN)))
        path = chat.application + search_path(SHOWN)
        with gate.holding("answer"):
            pending = [threads.submit(chat.server, "GET", path) for _ in range(3)]
            gate.wait_held()
            with promised(10):
                assert chat.server.stop() == 0
        for each in pending:
            answer = each.result()
            assert (answer.status, answer.json["complete"]) == (200, True)
            assert len(answer.json["items"]) == 20
