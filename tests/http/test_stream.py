"""`GET …/messages/stream`: each number once, in order; resumption; edits and deletions; its end."""

import re
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from backend.api import service
from backend.bootstrap import open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.redis.workers import Workers
from tests.conftest import Engines
from tests.http.conftest import running_worker
from tests.http.test_connection import serve_in_process
from tests.support.engines import RedisServer
from tests.support.event_stream import EventStreamClient, StreamEvent
from tests.support.http_server import ApplicationClient, HttpServer, running_server
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")


def follow(
    app: ApplicationClient, chat: str, *, query: str = "", last: int | None = None
) -> EventStreamClient:
    """A connection to the stream of a chat."""
    client = EventStreamClient(app.server.port, chat, query=query, last=last)
    assert client.status == 200
    return client


def create(app: ApplicationClient, chat: str, count: int) -> None:
    """Create so many messages in one request."""
    messages = [{"text": f"text {n}"} for n in range(count)]
    made = app.server("POST", f"{chat}/messages/batch", {"messages": messages})
    assert made.status == 202, made


def edit(app: ApplicationClient, message: str, text: str) -> None:
    """Change a message."""
    assert app.server("PATCH", message, {"message": {"text": text}}).status == 200


def test_creations_come_once_they_are_stored(app: ApplicationClient) -> None:
    """With their numbers as ids; a stream without a position begins after the newest message."""
    chat = app.chat()
    app.message(chat, "before")
    with follow(app, chat) as client:
        assert client.headers["content-type"] == "text/event-stream"
        assert client.take(1) == [StreamEvent("start", {"after": 1}, 1)]
        message = app.message(chat, "line\nbreak \u2028 é\r")
        (event,) = client.take(1)
    assert event == StreamEvent("message", app.server("GET", message).json, 2)


def test_a_client_resumes_behind_its_last_number(app: ApplicationClient) -> None:
    """From pages of SQL, then from what the followers share; the header counts, then `after`."""
    chat = app.chat()
    create(app, chat, 450)
    with follow(app, chat, last=0) as client:
        assert client.take_numbers(450) == list(range(1, 451))
        with follow(app, chat, last=440, query="?after=3") as second:
            create(app, chat, 300)
            assert second.take_numbers(750) == list(range(441, 751))
        assert client.take_numbers(750) == list(range(451, 751))
    with follow(app, chat, query="?after=748") as client:
        assert [event.id for event in client.take(2)] == [749, 750]


def test_edits_and_deletions_come_while_connected(app: ApplicationClient) -> None:
    """They have no id, so that a client resumes behind what it has; later clients see the present state."""
    chat = app.chat()
    first, second = app.message(chat, "one"), app.message(chat, "two")
    with follow(app, chat, last=0) as client:
        assert [event.data["text"] for event in client.take(2)] == ["one", "two"]
        edit(app, first, "another")
        assert client.take(1) == [StreamEvent("edited", app.server("GET", first).json, None)]
        assert app.server("DELETE", second).status == 204
        assert client.take(1) == [StreamEvent("deleted", {"number": 2}, None)]
        with follow(app, chat, last=0) as late:
            created, gone = late.take(2)
    assert created == StreamEvent("message", app.server("GET", first).json, 1)
    assert gone == StreamEvent("gone", {"number": 2, "reason": "removed"}, 2)


def test_a_chat_that_is_not_stored_yet_can_be_followed(own_server: HttpServer) -> None:
    """There is no worker: the chat is stored by the first command that needs it."""
    app = ApplicationClient(own_server)
    chat = app.chat()
    with follow(app, chat) as client:
        assert client.take(1) == [StreamEvent("start", {"after": 0}, 0)]


def test_a_deleted_chat_ends_its_streams(app: ApplicationClient) -> None:
    """The last event says so; a client that connects again learns that there is no such chat."""
    for parent in ("chat", "application"):
        chat = app.chat()
        app.message(chat)
        with follow(app, chat) as client:
            client.take(1)
            path = chat if parent == "chat" else app.path
            assert app.server("DELETE", f"{path}?cascade=true").status == 202
            assert list(client) == [StreamEvent("end", {"reason": "deleted"}, None)]
        with EventStreamClient(app.server.port, chat, last=1) as client:
            assert client.status == 404


@pytest.mark.parametrize("position", ["-1", "x", "", "9007199254740992", "1.5"])
def test_an_invalid_position_is_refused(app: ApplicationClient, position: str) -> None:
    """In the header as in the query."""
    path = f"{app.chat()}/messages/stream"
    for answer in (
        app.server("GET", path, last_event_id=position),
        app.server("GET", f"{path}?after={position}"),
    ):
        assert answer.status == 422, answer


def test_an_unknown_chat_is_not_found(app: ApplicationClient) -> None:
    """As everywhere."""
    assert app.server("GET", f"{app.path}/chats/7/messages/stream").status == 404


def open_streams(server: HttpServer) -> float:
    """How many streams the metrics report, over all processes."""
    found = re.search(
        r'^instachat_pool_in_use\{pool="streams"\} (\S+)$',
        server("GET", "/metrics").body.decode(),
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


def test_every_process_serves_followers(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """What one process accepts or changes reaches the followers of all; the metrics count the streams."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with running_server(settings, tmp_path, "--workers", "2") as server, ExitStack() as stack:
        stack.enter_context(running_worker(server))
        app = ApplicationClient(server)
        chat = app.chat()
        app.message(chat, "one")
        clients = [stack.enter_context(follow(app, chat, last=0)) for _ in range(12)]
        wait_until(lambda: open_streams(server) == len(clients))
        edit(app, app.message(chat, "two"), "another")
        for client in clients:
            events = client.take(3)
            assert [event.name for event in events] == ["message", "message", "edited"]
            client.close()
        wait_until(lambda: open_streams(server) == 0)


def test_a_paused_queue_delays_and_loses_nothing(
    engines: Engines, own_redis: RedisServer, tmp_path: Path
) -> None:
    """What is accepted meanwhile comes once the queue is resumed."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with running_server(settings, tmp_path) as server, ExitStack() as stack:
        stack.enter_context(running_worker(server))
        app = ApplicationClient(server)
        chat = app.chat()
        app.message(chat, "one")
        client = stack.enter_context(follow(app, chat, last=0))
        assert client.take_numbers(1) == [1]
        workers = stack.enter_context(closing(Workers(own_redis.url)))
        workers.pause()
        create(app, chat, 3)
        workers.resume()
        assert client.take_numbers(4) == [2, 3, 4]


def test_a_server_that_stops_ends_its_streams_at_once(own_server: HttpServer) -> None:
    """It does not wait for them until it must cut them off."""
    app = ApplicationClient(own_server)
    with follow(app, app.chat()) as client:
        client.take(1)
        assert own_server.stop() == 0
        assert list(client) == []
    assert "timeout graceful shutdown exceeded" not in own_server.stderr_text


def test_a_stream_is_logged_when_it_begins(own_server: HttpServer) -> None:
    """As any request, once; its duration is the time until then."""
    app = ApplicationClient(own_server)
    with follow(app, app.chat()) as client:
        client.take(1)
        wait_until(lambda: [line for line in own_server.requests if is_stream(line)])
    wait_until(lambda: open_streams(own_server) == 0)
    assert own_server.stop() == 0
    (line,) = filter(is_stream, own_server.requests)
    assert line["status"] == 200


def is_stream(line: dict[str, Any]) -> bool:
    """Whether a line of the log is for a stream."""
    return str(line["route"]).endswith("/stream")


def test_an_application_leaves_streams_to_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused as if the server had too many, until one of its streams has ended."""
    monkeypatch.setattr(service, "MAX_STREAMS_OF_ONE", 1)
    with open_backend(settings) as core, serve_in_process(settings) as server:
        paths = []
        for name in ("greedy", "other"):
            token = core.catalog.applications.create(name).token
            core.acceptor.accept(AcceptRequest.chats(token, 2))
            paths += [f"/api/v1/applications/{token}/chats/{chat}" for chat in (1, 2)]

        def status(path: str) -> int:
            with EventStreamClient(server.port, path) as client:
                return client.status

        with EventStreamClient(server.port, paths[0]) as client:
            assert client.status == 200
            assert [status(path) for path in paths[1:3]] == [503, 200]
        wait_until(lambda: status(paths[1]) == 200)


def test_a_client_that_does_not_read_is_let_go(impatient_server: HttpServer) -> None:
    """What it does not read is not kept for it, and it does not delay others."""
    app = ApplicationClient(impatient_server)
    chat = app.chat()
    messages = [{"text": "x" * 10_000}] * 100
    for _ in range(20):  # in all more than the sockets of both sides hold
        answer = app.server("POST", f"{chat}/messages/batch", {"messages": messages})
        assert answer.status == 202
    with socket.create_connection(("127.0.0.1", app.server.port), PATIENCE_SECONDS) as slow:
        slow.sendall(f"GET {chat}/messages/stream?after=0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with follow(app, chat, last=0) as client:
            assert client.take_numbers(2_000) == list(range(1, 2_001))
        wait_until(lambda: open_streams(app.server) == 0)  # the slow client has not left
        assert slow.recv(1)
