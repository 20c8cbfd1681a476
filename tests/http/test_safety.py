"""What keeps the server up and its secrets in: slow and idle clients, limits, headers, logs."""

import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.conftest import Engines
from tests.engines import RedisServer, die_with_parent
from tests.http import serving
from tests.http.conftest import OPERATOR
from tests.http.serving import Application, Server, until

pytestmark = pytest.mark.xdist_group("http")


def test_a_slow_client_is_let_go(served: Server) -> None:
    """Headers, and a body, that do not arrive within ten seconds; others are served meanwhile."""
    app = Application(served)
    chat = app.chat()
    slow_headers = socket.create_connection(("127.0.0.1", served.port))
    slow_headers.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    slow_body = socket.create_connection(("127.0.0.1", served.port))
    slow_body.sendall(
        f"POST {chat}/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        "Content-Length: 26\r\n\r\n{".encode()
    )
    began = time.monotonic()
    for connection, last in ((slow_headers, b"HTTP/1.1 408"), (slow_body, b"HTTP/1.1 408")):
        connection.settimeout(25)
        heard = connection.recv(100)
        assert heard.startswith(last)
        assert served("GET", "/healthz").status == 200
    assert 5 < time.monotonic() - began < 25
    slow_headers.close()
    slow_body.close()


@pytest.fixture
def frugal(
    engines: Engines, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A server whose shell allows it so few open files as most do."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fewer() -> None:
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, most))

    monkeypatch.setattr(serving, "die_with_parent", fewer)
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with serving.running(settings, tmp_path) as server:
        yield server


def test_a_thousand_idle_connections_do_no_harm(frugal: Server) -> None:
    """Beside 1,500 that say nothing, a request is answered at once."""
    idle = [socket.create_connection(("127.0.0.1", frugal.port)) for _ in range(1_500)]
    try:
        app = Application(frugal)
        chat = app.chat()
        for number in range(1, 21):
            made = frugal("POST", f"{chat}/messages", {"message": {"text": "x"}}, timeout=5)
            assert made.json == {"number": number}
    finally:
        for connection in idle:
            connection.close()


def test_every_answer_forbids_sniffing_framing_and_keeping(
    served: Server, app: Application
) -> None:
    """Successes, problems and the fast lane's answers alike."""
    chat = app.chat()
    answers = [
        served("GET", app.path),
        served("POST", f"{chat}/messages", {"message": {"text": "x"}}),
        served("GET", "/nowhere"),
        served("POST", f"{chat}/messages", raw=b"{", content_type="application/json"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_request_has_one_id_in_its_answer_and_in_the_log(
    served: Server, app: Application
) -> None:
    """The client's own, if it is a plain word; else one of ours, a new one each time."""
    chat = app.chat()
    body = {"message": {"text": "x"}}
    given = served("POST", f"{chat}/messages", body, x_request_id="mine-1.2_3")
    assert given.headers["x-request-id"] == "mine-1.2_3"
    ours = [served("GET", app.path, x_request_id=bad) for bad in ('"', "a b", "x" * 65, "")]
    ids = {answer.headers["x-request-id"] for answer in ours}
    assert len(ids) == len(ours)
    assert all(made.isalnum() for made in ids)
    wanted = ids | {"mine-1.2_3"}
    until(lambda: wanted <= {line["request_id"] for line in served.requests})


def test_the_log_names_no_token_and_no_text(served: Server) -> None:
    """Lines of JSON: of a request the route and not the path, whatever comes of it."""
    app = Application(served)
    chat = app.chat()
    secret = "a text that nobody else may read"
    last = ""
    for path, body in (
        (f"{chat}/messages", {"message": {"text": secret}}),
        (f"{chat}/messages?wait=stored", {"message": {"text": secret}}),
        (f"{chat}/messages", {"message": {"text": [secret]}}),
        (f"{chat}/messages/batch", {"messages": [{"text": secret}]}),
        (f"/api/v1/applications/{app.token}x/{secret.replace(' ', '')}", {"message": 1}),
    ):
        last = served("POST", path, body).headers["x-request-id"]
    served("GET", f"{chat}/messages?keyword={secret.replace(' ', '+')}")
    until(lambda: any(line["request_id"] == last for line in served.requests))
    assert app.token not in served.said
    assert secret not in served.said
    assert OPERATOR not in served.said
    for line in served.said.splitlines():
        assert {"time", "level", "event"} <= set(json.loads(line))
    route = "/api/v1/applications/{token}/chats/{chat}/messages"
    assert any(line["route"] == route and line["status"] == 202 for line in served.requests)


def test_pages_of_other_origins_get_in_only_if_a_setting_names_them(
    served: Server, app: Application
) -> None:
    """The fast lane included; a preflight names what is allowed."""
    chat = app.chat()
    body = {"message": {"text": "x"}}
    friend = served("POST", f"{chat}/messages", body, origin="https://a.example")
    stranger = served("POST", f"{chat}/messages", body, origin="https://b.example")
    assert friend.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in stranger.headers
    asked = served(
        "OPTIONS",
        f"{chat}/messages",
        origin="https://a.example",
        access_control_request_method="POST",
        access_control_request_headers="content-type,idempotency-key",
    )
    assert asked.status == 200
    assert "POST" in asked.headers["access-control-allow-methods"]


@pytest.fixture
def limited(
    engines: Engines, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that limits the creation of applications, in two processes."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    folder = tmp_path_factory.mktemp("limited")
    limit = "5/minute"
    with serving.running(settings, folder, "--workers", "2", app_creation_limit=limit) as server:
        yield server


def test_one_address_creates_so_many_applications_and_no_more(limited: Server) -> None:
    """Counted over all processes; 429 says when to try again; nothing else is limited; no CORS here."""
    body = {"application": {"name": "x"}}
    made = [
        limited("POST", "/api/v1/applications", body, x_forwarded_for=f"10.0.0.{n}")
        for n in range(5)
    ]  # whatever the client says of its address
    assert [answer.status for answer in made] == [201] * 5
    refused = limited(
        *("POST", "/api/v1/applications", body),
        origin="https://a.example",
        x_forwarded_for="10.0.0.9",
    )
    assert (refused.status, refused.json["type"].rpartition(":")[2]) == (429, "too-many")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "access-control-allow-origin" not in refused.headers
    path = f"/api/v1/applications/{made[0].json['token']}"
    assert limited("POST", f"{path}/chats").status == 202
    assert limited("POST", "/api/v1/applications", {"application": {}}).status == 422
