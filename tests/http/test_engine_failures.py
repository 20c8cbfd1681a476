"""Engines that are away, and killed processes: the responses meanwhile, and what survives."""

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from redis import Redis

from backend.api import lifespan, service
from backend.bootstrap import Backend, open_backend
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres.database import Database
from tests.conftest import Engines, database_name
from tests.http.conftest import migrated_database, running_worker, start_worker
from tests.http.test_connection import BODY, serve_in_process
from tests.http.test_fast_searches import send
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.requests import fill_only_chat
from tests.support.engines import PostgresServer, RedisServer, free_port
from tests.support.faults.load import drain_completely
from tests.support.faults.pace import pause
from tests.support.faults.proxy import CommitLosingProxy
from tests.support.http_server import (
    ApplicationClient,
    HttpResponse,
    HttpServer,
    server_processes,
)
from tests.support.ledger import Ledger, audit
from tests.support.pgbouncer import need_sessions
from tests.support.redis_copy import bring_back, copy_redis
from tests.support.waiting import MARGIN_SECONDS, PATIENCE_SECONDS, promised, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("http-faults")]
SECOND = 1.0 + MARGIN_SECONDS  # without a limit nothing would be answered until the engine is back


def seconds_taken(call: Callable[[], object]) -> float:
    """How long the call takes, in seconds."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_without_redis_requests_get_503_within_a_second(
    own_server: HttpServer, own_redis: RedisServer, how: str
) -> None:
    """With Retry-After. The process is up but not ready, and recovers by itself when Redis is back."""
    app = ApplicationClient(own_server)
    chat = app.chat()
    if how == "killed":
        own_redis.kill()
    else:
        own_redis.send(signal.SIGSTOP)
    try:
        for method, path, body in (
            ("POST", f"{chat}/messages", {"message": {"text": "x"}}),
            ("POST", f"{app.path}/chats", None),
            ("GET", app.path, None),
            ("POST", "/api/v1/applications", {"application": {"name": "x"}}),
        ):
            began = time.monotonic()
            answer = own_server(method, path, body)
            assert time.monotonic() - began < SECOND
            assert answer.status == 503, (path, answer)
            assert answer.headers["retry-after"] == "1"
            assert "127.0.0.1" not in answer.json["detail"]
        ready = own_server("GET", "/readyz")
        assert (ready.status, ready.json["away"]) == (503, ["Redis"])
        assert own_server("GET", "/healthz").status == 200
    finally:
        if how == "killed":
            own_redis.start()
        else:
            own_redis.send(signal.SIGCONT)
    body = {"message": {"text": "again"}}
    wait_until(lambda: own_server("POST", f"{chat}/messages", body).status == 202)
    wait_until(lambda: own_server("GET", "/readyz").status == 200)


def test_an_idle_server_rejects_a_demoted_primary(
    own_server: HttpServer, own_redis: RedisServer
) -> None:
    """Other processes have begun a new epoch; then the Redis of the old one returns, with its old data."""
    app = ApplicationClient(own_server)
    path = f"{app.chat()}/messages"

    def post() -> int:
        number: int = own_server("POST", path, {"message": {"text": "x"}}).json["number"]
        return number

    assert post() == 1
    redis = own_redis.client()
    plain = Redis(port=own_redis.port)  # dumps are bytes
    with open_backend(own_server.settings) as backend:
        backend.drainer.drain_all()
        former = copy_redis(plain)
        redis.flushall()
        request = AcceptRequest.messages(app.token, 1, ["of the new epoch"])
        assert [backend.acceptor.accept(request).first for _ in range(3)] == [2, 3, 4]
        backend.drainer.drain_all()
    wait_renewed(own_server)
    bring_back(plain, former)
    assert post() == 5


def wait_renewed(server: HttpServer) -> None:
    """Return once the server has read the epochs again, as it does every RENEW_INTERVAL_SECONDS."""
    database = Database(str(server.settings.database_url))

    def scans() -> int:
        statement = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'shard'"
        with database.connect() as connection:
            return int(connection.exec_driver_sql(statement).scalar() or 0)

    need_sessions()  # a pooler's are reported up to ten seconds late
    before = scans()
    # Two each time. Those of the last second may not be reported yet, and one renewal may be under way.
    wait_until(lambda: scans() >= before + 12)
    database.close()


def test_requests_waiting_behind_a_hanging_redis_do_not_wait_longer(
    own_server: HttpServer, own_redis: RedisServer
) -> None:
    """Fifty at once, in several batches: each gets its 503 within a second, not one batch after the other.

    The tests of group commit count the calls.
    """
    chat = ApplicationClient(own_server).chat()
    answers: list[tuple[int, float]] = []

    def post() -> None:
        began = time.monotonic()
        answer = own_server("POST", f"{chat}/messages", {"message": {"text": "x"}})
        answers.append((answer.status, time.monotonic() - began))

    own_redis.send(signal.SIGSTOP)
    try:
        threads = []
        for _ in range(50):
            threads.append(threading.Thread(target=post))
            threads[-1].start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
    finally:
        own_redis.send(signal.SIGCONT)
    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < SECOND


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_postgres_messages_are_accepted_and_reads_get_503(
    own_postgres: PostgresServer, own_redis: RedisServer, tmp_path: Path, how: str
) -> None:
    """Verified counters suffice, even while other requests wait for SQL. Reads have a Retry-After."""
    settings = Settings(database_url=migrated_database(own_postgres), redis_url=own_redis.url)
    server = HttpServer(settings, tmp_path)
    try:
        server.wait_ready()
        app = ApplicationClient(server)
        chat = app.chat()
        body = {"message": {"text": "x"}}
        assert server("POST", f"{chat}/messages", body).json == {"number": 1}
        assert server("GET", f"{chat}/messages?keyword=x").status == 200
        if how == "killed":
            own_postgres.kill()
        else:
            own_postgres.send_all(signal.SIGSTOP)
        unknown = f"/api/v1/applications/{'A' * 32}/chats/1/messages"
        stranger = threading.Thread(target=lambda: server("POST", unknown, body))
        stranger.start()
        for number in range(2, 12):
            took = seconds_taken(lambda: server("POST", f"{chat}/messages", body))
            assert took < SECOND, number
        assert server("POST", f"{chat}/messages", body).json == {"number": 12}
        messages = f"{chat}/messages"
        paths = (app.path, messages, f"{messages}/1", f"{messages}?keyword=x")
        with ThreadPoolExecutor(len(paths)) as threads:
            for answer in threads.map(lambda path: server("GET", path), paths):
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        ready = server("GET", "/readyz")
        assert (ready.status, ready.json["away"]) == (503, ["PostgreSQL"])
        stranger.join(PATIENCE_SECONDS)
        if how == "killed":
            own_postgres.start()
        else:
            own_postgres.send_all(signal.SIGCONT)
        wait_until(lambda: server("GET", app.path).status == 200)
    finally:
        server.remove()


def test_a_new_process_refuses_requests_in_time_while_postgresql_hangs(
    own_postgres: PostgresServer, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a connection, and has not read the shards' cursors. Afterwards the same request is accepted."""
    monkeypatch.setattr(lifespan, "RENEW_INTERVAL_SECONDS", 10 * PATIENCE_SECONDS)
    settings = Settings(database_url=migrated_database(own_postgres), redis_url=own_redis.url)
    with (
        open_backend(settings) as core,
        serve_in_process(settings) as server,
        ThreadPoolExecutor(3) as threads,
    ):
        token = core.catalog.applications.create("new").token
        core.acceptor.accept(AcceptRequest.chats(token))
        shard = core.counters.shard(token)
        path = f"/api/v1/applications/{token}/chats/1/messages"
        own_postgres.send_all(signal.SIGSTOP)
        try:
            with promised(4):
                pending = [threads.submit(send, server.port, "POST", path, BODY) for _ in range(3)]
                answers = [each.result() for each in pending]
            assert {(each.status, each.headers["retry-after"]) for each in answers} == {(503, "1")}
            assert core.log.read_issued(shard, [Parent(token, 1)])[0] == [0]
        finally:
            own_postgres.send_all(signal.SIGCONT)
        wait_until(lambda: send(server.port, "POST", path, BODY).status == 202)


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("hangs", [False, True])
def test_without_elasticsearch_searches_find_what_is_stored(
    elasticsearch: Elasticsearch,
    engines: Engines,
    own_redis: RedisServer,
    tmp_path: Path,
    silent_address: str,
    hangs: bool,
) -> None:
    """Nothing else is delayed by them; `/readyz` is 200 with `degraded`."""
    settings = Settings(
        database_url=engines.fresh_database(),
        redis_url=own_redis.url,
        elasticsearch_url=elasticsearch.url,
    )
    with open_backend(settings):
        pass  # creates the first index
    nowhere = silent_address if hangs else f"http://127.0.0.1:{free_port()}"
    server = HttpServer(settings.model_copy(update={"elasticsearch_url": nowhere}), tmp_path)
    worker = start_worker(server)
    try:
        server.wait_ready()
        chat = ApplicationClient(server).chat()
        path = f"{chat}/messages"
        body = {"message": {"text": "one"}}
        assert server("POST", f"{path}?wait=stored", body).status in (201, 202)
        server.wait_found(f"{path}/1")
        with ThreadPoolExecutor(40) as searching:
            searches = [
                searching.submit(server.wait_found, f"{path}?keyword=one") for _ in range(40)
            ]
            time.sleep(0.3)
            for method in ("GET", "PATCH"):
                began = time.monotonic()
                assert server(method, f"{path}/1", body).status == 200
                assert time.monotonic() - began < SECOND
            for search in searches:
                found = search.result()
                assert [item["number"] for item in found.json["items"]] == [1]
                assert found.json["complete"] is True
        with open_backend(settings) as core:
            fill_only_chat(core, 100_001)
        found = server.wait_found(f"{path}?keyword=needle").json
        assert (found["items"], found["complete"]) == ([], False)
        assert "may be missing" in found["why"]
        ready = server("GET", "/readyz")
        assert (ready.status, ready.json["away"]) == (200, ["Elasticsearch"])
    finally:
        server.remove()
        worker.kill()
        worker.wait()


def test_without_an_index_postgresql_searches_and_messages_are_accepted(
    elasticsearch: Elasticsearch, engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Elasticsearch was configured later, and no reindex has run."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with open_backend(settings) as core:
        token = core.catalog.applications.create("before").token
        core.acceptor.accept(AcceptRequest.chats(token))
        core.acceptor.accept(AcceptRequest.messages(token, 1, ["one"]))
        core.drainer.drain_all()
    later = settings.model_copy(update={"elasticsearch_url": elasticsearch.url})
    server = HttpServer(later, tmp_path)
    try:
        server.wait_ready()
        path = f"/api/v1/applications/{token}/chats/1/messages"
        found = server("GET", f"{path}?keyword=one")
        assert (found.status, found.json["complete"]) == (200, True)
        assert [item["number"] for item in found.json["items"]] == [1]
        with running_worker(server):
            made = server("POST", f"{path}?wait=searchable", {"message": {"text": "two"}})
        assert (made.status, made.json) == (201, {"number": 2})
    finally:
        server.remove()


def test_a_refused_accept_says_when_to_retry(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """A full log, and a chat that is being deleted: 503, on the fast path and on the ordinary route."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url, log_limit=4)
    server = HttpServer(settings, tmp_path)
    try:
        app = ApplicationClient(server.wait_ready())
        kept, closing = app.chat(), app.chat()
        body = {"message": {"text": "x"}}

        def refused(chat: str) -> set[tuple[int, str, str]]:
            answers = [server("POST", f"{chat}/messages{query}", body) for query in ("", "?")]
            return {
                (a.status, a.json["type"].rpartition(":")[2], a.headers["retry-after"])
                for a in answers
            }

        with open_backend(settings) as core:
            core.acceptor.accept(AcceptRequest.deletion(app.token, 2))
        assert refused(closing) == {(503, "being-deleted", "1")}
        assert server("POST", f"{kept}/messages", body).status == 202
        assert refused(kept) == {(503, "full", "1")}
    finally:
        server.remove()


def test_changing_a_message_that_is_not_stored_in_time_gets_503(own_server: HttpServer) -> None:
    """The request waits 5 seconds and changes nothing. It succeeds once the message is stored."""
    chat = ApplicationClient(own_server).chat()
    one = {"message": {"text": "one"}}
    with open_backend(own_server.settings) as core:
        core.workers.pause()
        assert own_server("POST", f"{chat}/messages", one).status == 202
        path = f"{chat}/messages/1"
        assert own_server("GET", path).json == {"number": 1, "status": "accepted"}
        began = time.monotonic()
        answer = own_server("PATCH", path, {"message": {"text": "two"}})
        assert 5 <= time.monotonic() - began < 5 + MARGIN_SECONDS
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "not stored yet" in answer.json["detail"]
        core.workers.resume()
        drain_completely(core)
    assert own_server("GET", path).json["text"] == "one"
    assert own_server("PATCH", path, {"message": {"text": "two"}}).json["text"] == "two"


# -- changes whose outcome is not known ----------------------------------------------------------------


class Changes(NamedTuple):
    """An application with two stored messages, and a request for each way to change something."""

    token: str
    requests: tuple[tuple[str, str, bytes], ...]


def stored_changes(core: Backend) -> Changes:
    """Create and store the application and its messages."""
    token = core.catalog.applications.create("before").token
    core.acceptor.accept(AcceptRequest.chats(token))
    core.acceptor.accept(AcceptRequest.messages(token, 1, ["before", "to delete"]))
    core.drainer.drain_all()
    path = f"/api/v1/applications/{token}"
    requests = (
        ("PATCH", f"{path}/chats/1/messages/1", b'{"message": {"text": "after"}}'),
        ("DELETE", f"{path}/chats/1/messages/2", b""),
        ("PATCH", path, b'{"application": {"name": "after"}}'),
        ("POST", "/api/v1/applications", b'{"application": {"name": "after"}}'),
    )
    return Changes(token, requests)


def made_changes(core: Backend, token: str) -> tuple[list[str], list[str]]:
    """The texts of the messages and the names of all applications."""
    texts = [message.text for message in core.catalog.messages.list(token, 1)]
    return texts, [application.name for application in core.catalog.applications.list()]


def problem_of(answer: HttpResponse) -> tuple[int, str]:
    """The status and the type of a problem."""
    return answer.status, answer.json["type"].rpartition(":")[2]


def test_a_change_whose_commit_is_not_answered_is_unconfirmed(
    engines: Engines, own_redis: RedisServer
) -> None:
    """PostgreSQL has made each of them."""
    settings = Settings(
        database_url=engines.fresh_database(), redis_url=own_redis.url, app_creation_limit="off"
    )
    with (
        closing(CommitLosingProxy(engines.postgres.folder / ".s.PGSQL.5432")) as proxy,
        open_backend(settings) as core,
    ):
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database_name(settings)}"
        token, requests = stored_changes(core)
        statements = (b"UPDATE message", b"UPDATE message", b"UPDATE app", b"INSERT INTO app")
        with serve_in_process(settings.model_copy(update={"database_url": url})) as server:
            for statement, request in zip(statements, requests, strict=True):
                proxy.lose_commit_of(statement)
                assert problem_of(send(server.port, *request)) == (503, "unconfirmed"), request
        assert made_changes(core, token) == (["after"], ["after", "after"])


def test_a_change_that_is_given_up_while_it_runs_is_unconfirmed(
    engines: Engines, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made later. One that still waited for a thread is not made, and its answer does not say so."""
    monkeypatch.setattr(service, "CALL_THREADS", 6)  # of which an application has half
    for name in ("CALL_TIMEOUT_SECONDS", "CHANGE_CALL_TIMEOUT_SECONDS"):
        monkeypatch.setattr(service, name, 1.0)
    settings = Settings(
        database_url=engines.fresh_database(), redis_url=own_redis.url, app_creation_limit="off"
    )
    with (
        open_backend(settings) as core,
        serve_in_process(settings) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        token, requests = stored_changes(core)
        with core.database.begin() as tx:
            tx.exec_driver_sql("LOCK TABLE application, message IN SHARE MODE")
            answers = clients.map(lambda request: send(server.port, *request), requests)
            assert {problem_of(answer) for answer in answers} == {(503, "unconfirmed")}
            late = send(server.port, *requests[0])
            assert problem_of(late) == (503, "unavailable")
        wait_until(lambda: made_changes(core, token) == (["after"], ["after", "after"]))


# -- stopped and killed processes ---------------------------------------------------------------------


class Writers:
    """Clients that post, each on its own connection, and record every response in a ledger."""

    def __init__(self, server: HttpServer, token: str, chat: str, folder: Path, count: int) -> None:
        self._server = server
        self._token = token
        self._chat = chat
        self._stop = threading.Event()
        self.ledgers = [folder / f"ledger-{nth}" for nth in range(count)]
        self.refused = 0
        self.answered = 0
        self._threads = [
            threading.Thread(target=self._write, args=(nth, path))
            for nth, path in enumerate(self.ledgers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop each after its current request."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _write(self, nth: int, path: Path) -> None:
        ledger = Ledger(path)
        number = int(self._chat.rpartition("/")[2])
        count = 0
        while not self._stop.is_set():
            try:
                with self._server.connected() as connection:
                    while not self._stop.is_set():
                        pause()
                        text = f"writer {nth} text {count}"
                        count += 1
                        self._post(connection, ledger, number, text)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    def _post(
        self, connection: http.client.HTTPConnection, ledger: Ledger, chat: int, text: str
    ) -> None:
        raw = json.dumps({"message": {"text": text}}).encode()
        headers = {"content-type": "application/json"}
        if connection.sock is None:
            connection.connect()
        try:
            connection.request("POST", f"{self._chat}/messages", raw, headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            ledger.record_uncertain(self._token, chat, [text])
            raise
        if answer.status == 202:
            self.answered += 1
            ledger.record_answer(self._token, chat, json.loads(body)["number"], [text])
        else:
            assert answer.status == 503, body
            self.refused += 1
            ledger.record_uncertain(self._token, chat, [text])


def _faults(settings: Settings, ledgers: list[Path]) -> dict[str, list[tuple[int, int]]]:
    """The faults that the audit finds once everything is stored."""
    with open_backend(settings) as core:
        drain_completely(core)
        return audit(core, ledgers).faults


def test_sigterm_finishes_accepted_requests_within_10_s(
    own_server: HttpServer, tmp_path: Path
) -> None:
    """Under load: exit code 0, every accepted message is stored, and hardly a request is cut off."""
    app = ApplicationClient(own_server)
    writers = Writers(own_server, app.token, app.chat(), tmp_path, 8)
    wait_until(lambda: writers.answered > 200)
    with promised(10):
        own_server.stop()
    assert own_server.process.returncode == 0
    writers.stop()
    uncertain = [
        line
        for path in writers.ledgers
        for line in path.read_text().splitlines()
        if json.loads(line)["first"] is None
    ]
    assert len(uncertain) <= 2 * len(writers.ledgers)  # refused connections, and 503
    assert not _faults(own_server.settings, writers.ledgers)


def test_the_ledger_holds_over_http_through_kill_9(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Under load, of a server process, its parent, the worker, and Redis: no accepted message is lost."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    server = HttpServer(settings, tmp_path, "--workers", "2").wait_ready()
    worker = start_worker(server)
    try:
        app = ApplicationClient(server)
        writers = Writers(server, app.token, app.chat(), tmp_path, 8)

        def progress() -> None:
            seen = writers.answered
            wait_until(lambda: writers.answered > seen + 100)

        progress()
        one, *_ = server_processes(server)
        one.kill()
        progress()
        worker.kill()
        worker.wait()
        worker = start_worker(server)
        progress()
        own_redis.kill()
        own_redis.start()
        progress()
        serving = server_processes(server)
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs(serving, PATIENCE_SECONDS)
        assert not alive, "the server processes outlive their parent"
        server.start()
        server.wait_ready()
        progress()
        writers.stop()
        assert not _faults(settings, writers.ledgers)
    finally:
        server.remove()
        worker.kill()
        worker.wait()
