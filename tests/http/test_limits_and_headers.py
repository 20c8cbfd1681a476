"""Slow and idle clients, limits, headers, and logs without secrets."""

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from backend.settings import Settings
from tests.conftest import Engines
from tests.http.conftest import OPERATOR
from tests.support import http_server
from tests.support.engines import RedisServer, die_with_parent
from tests.support.http_server import ApplicationClient, HttpServer
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")


def test_a_slow_client_is_disconnected(impatient_server: HttpServer) -> None:
    """If the headers or the body do not arrive in time. Other clients are served meanwhile."""
    app = ApplicationClient(impatient_server)
    chat = app.chat()
    slow_headers = socket.create_connection(("127.0.0.1", impatient_server.port))
    slow_headers.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    slow_body = socket.create_connection(("127.0.0.1", impatient_server.port))
    slow_body.sendall(
        f"POST {chat}/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        "Content-Length: 26\r\n\r\n{".encode()
    )
    for connection, last in ((slow_headers, b"HTTP/1.1 408"), (slow_body, b"HTTP/1.1 408")):
        connection.settimeout(PATIENCE_SECONDS)
        received = connection.recv(100)
        assert received.startswith(last)
        assert impatient_server("GET", "/healthz").status == 200
    slow_headers.close()
    slow_body.close()


@pytest.fixture
def low_limit_server(
    engines: Engines, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HttpServer]:
    """A server with the usual low limit of open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit() -> None:
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, most))

    def start_limited(
        module: str, *arguments: str, environment: dict[str, str], stderr: IO[bytes]
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env=environment,
            preexec_fn=limit,  # noqa: PLW1509
        )

    monkeypatch.setattr(http_server, "start_module", start_limited)
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with http_server.running_server(settings, tmp_path) as server:
        yield server


def test_a_thousand_idle_connections_do_no_harm(low_limit_server: HttpServer) -> None:
    """Beside 1,500 idle connections, requests are answered as usual."""
    idle = [socket.create_connection(("127.0.0.1", low_limit_server.port)) for _ in range(1_500)]
    try:
        app = ApplicationClient(low_limit_server)
        chat = app.chat()
        for number in range(1, 21):
            made = low_limit_server("POST", f"{chat}/messages", {"message": {"text": "x"}})
            assert made.json == {"number": number}
    finally:
        for connection in idle:
            connection.close()


def test_every_response_forbids_sniffing_framing_and_caching(
    shared_server: HttpServer, app: ApplicationClient
) -> None:
    """Successes and problems, on the fast path and on the routes."""
    chat = app.chat()
    answers = [
        shared_server("GET", app.path),
        shared_server("POST", f"{chat}/messages", {"message": {"text": "x"}}),
        shared_server("GET", "/nowhere"),
        shared_server("POST", f"{chat}/messages", raw=b"{", content_type="application/json"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_request_has_one_id_in_its_response_and_in_the_log(
    shared_server: HttpServer, app: ApplicationClient
) -> None:
    """The client's id if it is valid; otherwise a new one of the server."""
    chat = app.chat()
    body = {"message": {"text": "x"}}
    given = shared_server("POST", f"{chat}/messages", body, x_request_id="mine-1.2_3")
    assert given.headers["x-request-id"] == "mine-1.2_3"
    ours = [shared_server("GET", app.path, x_request_id=bad) for bad in ('"', "a b", "x" * 65, "")]
    ids = {answer.headers["x-request-id"] for answer in ours}
    assert len(ids) == len(ours)
    assert all(made.isalnum() for made in ids)
    wanted = ids | {"mine-1.2_3"}
    wait_until(lambda: wanted <= {line["request_id"] for line in shared_server.requests})


def test_the_log_names_no_token_and_no_text(shared_server: HttpServer) -> None:
    """Lines of JSON. A request is logged by its route, not by its path, whatever its outcome."""
    app = ApplicationClient(shared_server)
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
        last = shared_server("POST", path, body).headers["x-request-id"]
    shared_server("GET", f"{chat}/messages?keyword={secret.replace(' ', '+')}")
    wait_until(lambda: any(line["request_id"] == last for line in shared_server.requests))
    assert app.token not in shared_server.stderr_text
    assert secret not in shared_server.stderr_text
    assert OPERATOR not in shared_server.stderr_text
    for line in shared_server.stderr_text.splitlines():
        assert {"time", "level", "event"} <= set(json.loads(line))
    route = "/api/v1/applications/{token}/chats/{chat}/messages"
    assert any(line["route"] == route and line["status"] == 202 for line in shared_server.requests)


def test_only_configured_origins_are_allowed(
    shared_server: HttpServer, app: ApplicationClient
) -> None:
    """CORS, also for requests that could take the fast path; a preflight lists what is allowed."""
    chat = app.chat()
    body = {"message": {"text": "x"}}
    friend = shared_server("POST", f"{chat}/messages", body, origin="https://a.example")
    stranger = shared_server("POST", f"{chat}/messages", body, origin="https://b.example")
    assert friend.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in stranger.headers
    asked = shared_server(
        "OPTIONS",
        f"{chat}/messages",
        origin="https://a.example",
        access_control_request_method="POST",
        access_control_request_headers="content-type,idempotency-key",
    )
    assert asked.status == 200
    assert "POST" in asked.headers["access-control-allow-methods"]


@pytest.fixture
def rate_limited_server(
    engines: Engines, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    """Two server processes that limit the creation of applications."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    folder = tmp_path_factory.mktemp("rate_limited_server")
    limit = "5/minute"
    with http_server.running_server(
        settings, folder, "--workers", "2", app_creation_limit=limit
    ) as server:
        yield server


def test_one_address_may_create_a_limited_number_of_applications(
    rate_limited_server: HttpServer,
) -> None:
    """All processes count together, 429 has a Retry-After, and no other request is limited. No CORS here."""
    body = {"application": {"name": "x"}}
    made = [
        rate_limited_server("POST", "/api/v1/applications", body, x_forwarded_for=f"10.0.0.{n}")
        for n in range(5)
    ]  # X-Forwarded-For does not matter
    assert [answer.status for answer in made] == [201] * 5
    refused = rate_limited_server(
        *("POST", "/api/v1/applications", body),
        origin="https://a.example",
        x_forwarded_for="10.0.0.9",
    )
    assert (refused.status, refused.json["type"].rpartition(":")[2]) == (429, "too-many")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "access-control-allow-origin" not in refused.headers
    path = f"/api/v1/applications/{made[0].json['token']}"
    assert rate_limited_server("POST", f"{path}/chats").status == 202
    assert rate_limited_server("POST", "/api/v1/applications", {"application": {}}).status == 422
