"""HEAD, `Allow`, and the parameters of a query: alike on every path of the OpenAPI document."""

import http.client
from urllib.parse import urlencode

import pytest

from tests.http.conftest import OPERATOR
from tests.support.http_server import ApplicationClient, HttpResponse, HttpServer

pytestmark = pytest.mark.xdist_group("http")
OUTSIDE_OF_THE_API = {"/": "GET, HEAD", "/docs": "GET, HEAD", "/openapi.json": "GET, HEAD"}
CHANGING = {"x-request-id", "date", "content-length"}  # from response to response


@pytest.fixture
def chat(app: ApplicationClient) -> str:
    """A chat with a stored message."""
    path = app.chat()
    app.server("POST", f"{path}/messages?wait=stored", {"message": {"text": "hello"}})
    return path


@pytest.fixture
def paths(app: ApplicationClient, chat: str) -> dict[str, set[str]]:
    """Each path of the API with its methods in capitals, filled with that chat and message."""
    documented = app.server("GET", "/openapi.json").json["paths"]
    token, number = app.path.rpartition("/")[2], chat.rpartition("/")[2]
    return {
        path.format(token=token, chat=number, number=1): {method.upper() for method in methods}
        for path, methods in documented.items()
    }


def test_another_method_is_405_and_allow_names_all_that_a_path_has(
    app: ApplicationClient, paths: dict[str, set[str]]
) -> None:
    """HEAD wherever GET is."""
    for path, methods in paths.items():
        expected = methods | ({"HEAD"} if "GET" in methods else set())
        answer = app.server("PUT", path)
        assert answer.status == 405, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.headers["allow"].split(", ")) == expected, path
    for path, allowed in OUTSIDE_OF_THE_API.items():
        assert app.server("DELETE", path).headers["allow"] == allowed, path


def test_head_answers_as_get_does_without_the_body(
    app: ApplicationClient, paths: dict[str, set[str]], chat: str
) -> None:
    """Also for what is not there, and on the connection that other requests use."""
    read = [
        path for path, methods in paths.items() if "GET" in methods and not path.endswith("/stream")
    ]
    with app.server.connected() as connection:
        for path in [
            *read,
            *OUTSIDE_OF_THE_API,
            f"{chat}/messages?limit=0",
            f"{chat}0",
            "/nothing",
        ]:
            responses = [_ask(connection, method, path) for method in ("GET", "HEAD")]
            get, head = responses
            assert (head.status, head.body) == (get.status, b""), path
            assert _lasting(head) == _lasting(get), path
            if not path.startswith(("/metrics", "/readyz")) and path != "/":
                assert head.headers["content-length"] == get.headers["content-length"], path


def test_head_of_a_stream_ends(app: ApplicationClient, chat: str) -> None:
    """It shows the head that a stream has; the connection takes the next request."""
    with app.server.connected() as connection:
        head = _ask(connection, "HEAD", f"{chat}/messages/stream")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == "text/event-stream"
    assert app.server("GET", chat).status == 200


def test_an_unknown_parameter_is_refused(
    app: ApplicationClient, paths: dict[str, set[str]], shared_server: HttpServer
) -> None:
    """422, on each route of the API; nothing is created or deleted. Elsewhere it is ignored."""
    body = {"application": {"name": "x"}, "message": {"text": "x"}, "messages": [{"text": "x"}]}
    for path, methods in paths.items():
        if not path.startswith("/api/"):
            continue
        for method in methods:
            sent = body if method in {"POST", "PATCH"} else None
            answer = app.server(
                method, f"{path}?sort=desc&limit", sent, authorization=f"Bearer {OPERATOR}"
            )
            assert answer.status == 422, (method, path)
            assert "query.sort: unknown parameter" in answer.json["detail"], (method, path)
    assert app.server("GET", app.path).json["chats_count"] == 1
    assert shared_server("GET", "/healthz?" + urlencode({"cache": "0"})).status == 200


def test_the_parameters_of_a_route_are_named(app: ApplicationClient, chat: str) -> None:
    """Those that a reader looks for."""
    detail = app.server("GET", f"{chat}/messages?offset=5").json["detail"]
    assert detail == (
        "query.offset: unknown parameter; this route takes"
        " after, around, before, keyword, limit, numbers, order, since, until"
    )
    detail = app.server("GET", f"{app.path}?{'x' * 500}=1").json["detail"]
    assert detail == f"query.{'x' * 40}: unknown parameter; this route takes none"


def _ask(connection: http.client.HTTPConnection, method: str, path: str) -> HttpResponse:
    connection.request(method, path)
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return HttpResponse(response.status, headers, response.read())


def _lasting(response: HttpResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in CHANGING}
