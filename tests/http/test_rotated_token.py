"""A token that was replaced: refused by every process and cache; everything else stays."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.bootstrap import Backend, open_backend
from backend.settings import Settings
from tests.conftest import Engines
from tests.http.conftest import running_worker
from tests.support.engines import RedisServer
from tests.support.http_server import ApplicationClient, HttpServer, exchange, running_server
from tests.support.waiting import wait_until

PROCESSES = 2
JSON = {"content-type": "application/json"}


@pytest.fixture
def server(engines: Engines, own_redis: RedisServer, tmp_path: Path) -> Iterator[HttpServer]:
    """A server of several processes without a worker."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with running_server(settings, tmp_path, "--workers", str(PROCESSES)) as server:
        yield server


@pytest.fixture
def core(server: HttpServer) -> Iterator[Backend]:
    """Another process on its engines: the one that replaces the token."""
    with open_backend(server.settings) as core:
        yield core


def post(connection: http.client.HTTPConnection, path: str, text: str = "x") -> tuple[int, object]:
    """Create a message on the connection: the status and the number."""
    body = json.dumps({"message": {"text": text}}).encode()
    answer = exchange(connection, "POST", f"{path}/messages", body, JSON)
    return answer.status, answer.json.get("number")


def test_a_replaced_token_is_refused_everywhere_and_nothing_else_changes(
    server: HttpServer, core: Backend
) -> None:
    """By processes that have parsed its requests before, however it is written; streams end."""
    app = ApplicationClient(server)
    chat = app.chat()
    # New connections are spread over the processes, and stay with one.
    connections = [
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(16)
    ]
    numbers = [post(connection, chat) for connection in connections for _ in range(2)]
    assert sorted(numbers) == [(202, n) for n in range(1, 33)]
    kept = {"message": {"text": "kept"}}
    first = server("POST", f"{chat}/messages", kept, idempotency_key="once").json
    stream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    stream.request("GET", f"{chat}/messages/stream")
    following = stream.getresponse()
    assert following.status == 200

    token = core.catalog.applications.rotate(app.token).token
    new = f"/api/v1/applications/{token}"
    for connection in connections:
        wait_until(lambda connection=connection: post(connection, chat)[0] == 404)  # type: ignore[misc]
    for _ in range(2 * PROCESSES):
        for path in (
            app.path,
            f"{app.path}/chats",
            f"{chat}/messages",
            f"{chat}/messages/1",
            f"{chat}/messages?keyword=kept",
            f"{app.path}/messages?keyword=kept",
            f"{chat}/messages/stream",
            app.path.replace(app.token, "".join(f"%{ord(each):02x}" for each in app.token)),
        ):
            assert server("GET", path).status == 404, path
        bearer = f"Bearer {app.token}"
        assert server("GET", "/api/v1/application", authorization=bearer).status == 404
    following.read()  # to its end
    for connection in (*connections, stream):
        connection.close()

    replayed = server("POST", f"{new}/chats/1/messages", kept, idempotency_key="once")
    assert replayed.json == first, "the key is the application's"
    assert server("POST", f"{new}/chats/1/messages", {"message": {"text": "after"}}).status == 202
    with running_worker(server):
        shown = server.wait_found(f"{new}/chats/1/messages/{first['number']}")
        assert shown.json["text"] == "kept"
        wait_until(lambda: server("GET", f"{new}/chats/1/messages?keyword=after").json["items"])
    page = server("GET", f"{new}/chats/1/messages?limit=200").json
    assert [item["number"] for item in page["items"]] == list(range(1, page["total"] + 1))
    renamed = server("PATCH", new, {"application": {"name": "renamed"}})  # the ordinary route
    for found in (renamed, server("GET", new)):
        assert (found.status, found.json["token"], found.json["chats_count"]) == (200, token, 1)
    bearer = f"Bearer {token}"
    assert server("GET", "/api/v1/application", authorization=bearer).json["token"] == token


def test_each_replacement_ends_the_one_before(server: HttpServer, core: Backend) -> None:
    """Only the last token is the application's, also right after a server was started."""
    app = ApplicationClient(server)
    tokens = [app.token]
    for _ in range(2):
        original = core.tokens.original(tokens[-1])
        tokens.append(core.catalog.applications.rotate(original).token)
        core.database.refresh_installation()
        core.tokens.follow()
    server.stop()
    server.start()
    server.wait_ready()
    found = [server("GET", f"/api/v1/applications/{token}").status for token in tokens]
    assert found == [404, 404, 200]
