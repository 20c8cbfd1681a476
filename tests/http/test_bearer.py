"""`/api/v1/application/…`: the token in a header instead of the path, on both routes."""

from secrets import token_urlsafe
from typing import Any

import pytest

from tests.support.http_server import ApplicationClient, HttpServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("http")
MESSAGE = {"message": {"text": "hello"}}
NO_TOKEN = "urn:problem-type:instachat:no-token"


def test_every_route_of_an_application_takes_the_token_from_the_header(
    app: ApplicationClient,
) -> None:
    """With the same answers: create, read, search, change, delete; by GET and by HEAD."""
    token, call = app.path.rpartition("/")[2], app.server

    def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = call(method, f"/api/v1/application{path}", body, authorization=f"Bearer {token}")
        return answer.status, answer.json if answer.body else None

    assert ask("POST", "/chats?wait=stored") == (201, {"number": 1})
    assert ask("POST", "/chats/1/messages", MESSAGE) == (202, {"number": 1})
    assert ask("POST", "/chats/1/messages?wait=stored", MESSAGE) == (201, {"number": 2})
    assert ask("POST", "/chats/1/messages/batch", {"messages": [{"text": "x"}]}) == (
        202,
        {"first": 3, "last": 3},
    )
    for path in ("", "/chats", "/chats/1", "/chats/1/messages/1", "/chats/1/messages?keyword=hell"):
        # The second one has a query or a header that only the ordinary route reads.
        assert ask("GET", path) == (200, call("GET", app.path + path).json), path
        assert (
            call("HEAD", "/api/v1/application" + path, authorization=f"bearer {token}").status
            == 200
        )
    assert ask("PATCH", "/chats/1/messages/1", {"message": {"text": "edited"}})[0] == 200
    assert ask("DELETE", "/chats/1/messages/1") == (204, None)
    assert ask("PATCH", "", {"application": {"name": "new"}})[0] == 200
    assert ask("DELETE", "?cascade=true") == (202, None)
    assert call("GET", app.path).status == 404


def test_one_connection_keeps_the_tokens_of_its_requests_apart(shared_server: HttpServer) -> None:
    """The same path with another token, again and again, as a proxy sends it."""
    apps = [ApplicationClient(shared_server) for _ in range(2)]
    for app in apps:
        app.chat()
    with shared_server.connected() as connection:
        for round_ in range(1, 4):
            for app in apps:
                headers = {"Authorization": f"Bearer {app.path.rpartition('/')[2]}"}
                connection.request("GET", "/api/v1/application", headers=headers)
                assert app.path.endswith(_token(connection.getresponse().read())), round_


def test_without_a_token_it_is_401_and_an_unknown_one_404(
    app: ApplicationClient, shared_server: HttpServer
) -> None:
    """Byte for byte the 404 of every unknown token, also for what can be no token."""
    unknown = shared_server("GET", "/api/v1/applications/" + "A" * 32).body
    for path in ("/api/v1/application", "/api/v1/application/chats/1/messages?limit=5"):
        for wrong in ("A" * 32, "short", "../applications", "a b", f"{'A' * 32}/chats"):
            answer = shared_server("GET", path, authorization=f"Bearer {wrong}")
            assert (answer.status, answer.body) == (404, unknown), wrong
        for header in ("", "Basic eDp5", "Bearer"):
            answer = shared_server("GET", path, authorization=header)
            assert (answer.status, answer.json["type"]) == (401, NO_TOKEN)
            assert answer.headers["www-authenticate"] == "Bearer"
    token = app.path.rpartition("/")[2]
    assert shared_server("DELETE", "/api/v1/applications").status == 405
    assert (
        shared_server("GET", "/api/v1/applicationx", authorization=f"Bearer {token}").status == 404
    )


def test_no_log_line_contains_the_token(app: ApplicationClient) -> None:
    """And the route is named as that of the longer path."""
    token = app.path.rpartition("/")[2]
    id_ = token_urlsafe()
    app.server(
        "GET", "/api/v1/application/chats", authorization=f"Bearer {token}", x_request_id=id_
    )

    def routes() -> list[str]:
        return [line["route"] for line in app.server.requests if line["request_id"] == id_]

    wait_until(routes)
    assert routes() == ["/api/v1/applications/{token}/chats"]
    assert token not in app.server.stderr_text


def _token(body: bytes) -> str:
    return body.decode().partition('"token":"')[2].partition('"')[0]
