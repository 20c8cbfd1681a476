"""Which requests are refused with which problem, and that valid ones are not."""

import json
import socket
import string
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.bootstrap import open_backend
from tests.support.faults.shortcuts import rejecting_texts
from tests.support.http_server import ApplicationClient, HttpServer
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.xdist_group("http")
NOTHING = {
    "type": "urn:problem-type:instachat:not-found",
    "title": "Not found",
    "status": 404,
    "detail": "There is nothing here.",
}
TOKEN = "A" * 32


@pytest.fixture(scope="session")
def chat(shared_server: HttpServer) -> str:
    """The path of a chat's messages."""
    return ApplicationClient(shared_server).chat() + "/messages"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v1",
        "/api/v1/",
        "/api/v1/applications/",
        f"/api/v1/applications/{TOKEN}",
        "/api/v1/applications/short",
        "/api/v1/applications/%00%ff%20",
        f"/api/v1/applications/{TOKEN}/chats",
        f"/api/v1/applications/{TOKEN}/chats/1",
        f"/api/v1/applications/{TOKEN}/chats/1/messages",
        f"/api/v1/applications/{TOKEN}/chats/1/messages?keyword=x",
        f"/api/v1/applications/{TOKEN}/chats/1/messages/1",
        *(
            f"/api/v1/applications/{TOKEN}/chats/{number}/messages/1"
            for number in ("0", "-1", "1.0", "%201", "1_0", "x", "9" * 16, "9" * 400, "٣")
            if number.isascii()
        ),
    ],
)
def test_every_missing_thing_gets_one_constant_body(shared_server: HttpServer, path: str) -> None:
    """Unknown, impossible, deleted or foreign: byte for byte the same 404."""
    answer = shared_server("GET", path)
    assert (answer.status, answer.json) == (404, NOTHING)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body == shared_server("GET", "/nowhere").body


def test_another_applications_chat_is_not_found(app: ApplicationClient) -> None:
    """A chat's number without its application's token gives no access."""
    chat = app.chat()
    app.chat()
    other = ApplicationClient(app.server)
    foreign = chat.replace(app.token, other.token)
    for method, path in (("GET", foreign), ("GET", f"{foreign}/messages"), ("DELETE", foreign)):
        assert app.server(method, path).json == NOTHING
    assert app.server("POST", f"{foreign}/messages", {"message": {"text": "x"}}).json == NOTHING


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"message": {"text": "a"}} x',
        b'{"message": {"text": "a", "x": NaN}}',
        b'{"message": {"text": "\xff\xfe"}}',
        b"[" * 100_000,
        '{"message": {"text": "a"}}'.encode("utf-16"),
        b"\xef\xbb\xbf" + b'{"message": {"text": "a"}}',
    ],
)
def test_a_body_that_is_not_json_gets_400(shared_server: HttpServer, chat: str, raw: bytes) -> None:
    """Broken, truncated, in another encoding, or nested too deeply. An empty body is a missing value: 422."""
    answer = shared_server("POST", chat, raw=raw, content_type="application/json")
    assert answer.status == (400 if raw else 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize("raw", [b'{"message": {"text": "\xff"}}', b"\xfe\xff", b"{'a': 1}"])
def test_no_route_takes_a_body_that_is_not_json(app: ApplicationClient, raw: bytes) -> None:
    """400 on every route, with and without a query or a charset."""
    message = app.message(app.chat())
    messages = message.rpartition("/")[0]
    for method, path in (
        ("POST", "/api/v1/applications"),
        ("PATCH", app.path),
        ("POST", messages),
        ("POST", f"{messages}?wait=stored"),
        ("POST", f"{messages}/batch"),
        ("PATCH", message),
    ):
        for content_type in ("application/json", "application/json; charset=utf-8"):
            answer = app.server(method, path, raw=raw, content_type=content_type)
            assert (answer.status, answer.json["type"].rpartition(":")[2]) == (400, "not-json"), (
                path
            )


@pytest.mark.parametrize(
    "body",
    [
        None,
        1,
        [],
        {},
        {"message": None},
        {"message": "text"},
        {"message": {}},
        {"message": {"text": None}},
        {"message": {"text": 1}},
        {"message": {"text": ["a"]}},
        {"message": {"text": ""}},
        {"message": {"text": "a" * 10_001}},
        {"message": {"text": "a\0b"}},
        {"message": {"text": "\ud83d"}},
    ],
)
def test_an_invalid_value_gets_422_without_its_text(
    shared_server: HttpServer, chat: str, body: object
) -> None:
    """The problem names the place and the defect, not the text; the same on the fast path and the route."""
    raw = json.dumps(body).encode()
    hot = shared_server("POST", chat, raw=raw, content_type="application/json")
    ordinary = shared_server(
        "POST", f"{chat}?", raw=raw, content_type="application/json; charset=utf-8"
    )
    assert (hot.status, hot.json["type"].rpartition(":")[2]) == (422, "invalid")
    assert hot.body == ordinary.body
    assert "aaa" not in hot.json["detail"]


@pytest.mark.parametrize(
    "text", ["a" * 10_000, "\U0001f600" * 10_000, " ", "\x01\x1f\x7f", "\ufffe"]
)
def test_every_valid_text_is_stored_unchanged(app: ApplicationClient, text: str) -> None:
    """1 to 10,000 code points, each escaped in JSON."""
    chat = app.chat()
    raw = json.dumps({"message": {"text": text}}).encode()
    made = app.server(
        "POST", f"{chat}/messages?wait=stored", raw=raw, content_type="application/json"
    )
    assert made.status in (201, 202)  # 202 if it takes more than five seconds
    assert app.server.wait_found(f"{chat}/messages/1").json["text"] == text
    hot = app.server("POST", f"{chat}/messages", raw=raw, content_type="application/json")
    assert (hot.status, hot.json) == (202, {"number": 2})


@pytest.mark.parametrize("name", ["", "a" * 256, "a\0", 5])
def test_names_are_checked(shared_server: HttpServer, app: ApplicationClient, name: object) -> None:
    """For new applications and for renamed ones."""
    body = {"application": {"name": name}}
    assert shared_server("POST", "/api/v1/applications", body).status == 422
    assert shared_server("PATCH", app.path, body).status == 422


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=",
        "limit=1_0",
        "limit=+1",
        "after=-1",
        "after=1.5",
        "after=x",
    ],
)
def test_page_parameters_are_plain_digits(app: ApplicationClient, query: str) -> None:
    """`limit` is 1 to 200, `after` a number; anything else gets 422."""
    assert app.server("GET", f"{app.path}/chats?{query}").status == 422


def test_other_parameters_are_checked(app: ApplicationClient) -> None:
    """Other values of `wait` and `cascade` get 422."""
    body = {"message": {"text": "x"}}
    assert app.server("POST", f"{app.chat()}/messages?wait=forever", body).status == 422
    assert app.server("DELETE", f"{app.path}?cascade=perhaps").status == 422


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 202),
        ("application/json; charset=utf-8", 202),
        ("APPLICATION/JSON;charset=UTF-8", 202),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        ("nonsense", 415),
    ],
)
def test_the_content_type_must_be_json(
    shared_server: HttpServer, chat: str, content_type: str, status: int
) -> None:
    """415 for any other type, so that the form of another web page can't post."""
    raw = b'{"message": {"text": "a"}}'
    assert shared_server("POST", chat, raw=raw, content_type=content_type).status == status


@pytest.mark.parametrize("query", ["", "?"])
def test_a_coded_body_is_refused(shared_server: HttpServer, chat: str, query: str) -> None:
    """415, and not 400 as if it were no JSON; on the fast path and on the route."""
    for coding, status in (("gzip", 415), ("identity", 202)):
        answer = shared_server(
            "POST", f"{chat}{query}", {"message": {"text": "a"}}, content_encoding=coding
        )
        assert answer.status == status


def test_an_encoded_slash_separates_no_segments(app: ApplicationClient) -> None:
    """Whatever a route it would lead to: nothing has such a name."""
    chat = app.chat()
    message = app.message(chat)
    for path in (app.path, chat, f"{chat}/messages", message):
        assert app.server("GET", path).status == 200
        parts = path.split("/")
        for at in range(2, len(parts)):
            for slash in ("%2F", "%2f"):
                strange = "/".join(parts[:at]) + slash + "/".join(parts[at:])
                answer = app.server("GET", strange)
                assert (answer.status, answer.json) == (404, NOTHING), strange
    assert app.server("DELETE", message.replace("/messages/", "/messages%2F")).status == 404
    assert app.server("GET", message).status == 200


def test_a_large_body_is_refused_while_it_is_read(shared_server: HttpServer, chat: str) -> None:
    """413 by its Content-Length or by the received bytes, before the whole body has arrived."""
    answer = shared_server("POST", chat, raw=b"x" * 300_000, content_type="application/json")
    assert answer.status == 413
    with socket.create_connection(
        ("127.0.0.1", shared_server.port), timeout=PATIENCE_SECONDS
    ) as plain:
        plain.sendall(
            f"POST {chat} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        with suppress(OSError):  # the server may close while we send
            for _ in range(100):
                plain.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 413")  # before the end of the body


def test_a_full_batch_of_the_longest_texts_is_accepted(app: ApplicationClient) -> None:
    """1,000 texts of 10,000 characters are within the limit of a batch's body."""
    path = f"{app.chat()}/messages/batch"
    made = app.server("POST", path, {"messages": [{"text": "x" * 10_000}] * 1_000})
    assert (made.status, made.json) == (202, {"first": 1, "last": 1_000})


def test_a_number_whose_creation_was_rejected_is_410(app: ApplicationClient) -> None:
    """For a request that waits for it, reads it or changes it. Lists omit it, and contain its neighbours."""
    bodies = [{"text": text} for text in ("one", "refused by SQL", "three")]
    with open_backend(app.server.settings) as core, rejecting_texts(core.database):
        for _ in range(20):
            messages = f"{app.chat()}/messages"
            waited = app.server("POST", f"{messages}/batch?wait=stored", {"messages": bodies})
            if waited.status != 202:  # 202 if it takes more than five seconds
                break
    message = {"message": {"text": "x"}}
    for answer in (
        waited,
        app.server("GET", f"{messages}/2"),
        app.server("PATCH", f"{messages}/2", message),
        app.server("DELETE", f"{messages}/2"),
    ):
        assert (answer.status, answer.json["type"].rpartition(":")[2]) == (410, "rejected")
        assert "refused by SQL" not in answer.json["detail"]
    assert [each["number"] for each in app.server("GET", messages).json["items"]] == [1, 3]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    raw=st.binary(max_size=200) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))
)
def test_arbitrary_bytes_as_a_body_do_no_harm(
    shared_server: HttpServer, chat: str, raw: bytes
) -> None:
    """Any body gets 202, 400 or 422, the same on the fast path and on the route."""
    hot = shared_server("POST", chat, raw=raw, content_type="application/json")
    ordinary = shared_server("POST", chat, raw=raw, content_type="application/json; charset=utf-8")
    assert hot.status in (202, 400, 422)
    assert ordinary.status == hot.status


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["message", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=JSON | st.fixed_dictionaries({"message": JSON | st.fixed_dictionaries({"text": JSON})}))
def test_the_fast_path_and_the_route_treat_every_body_alike(
    shared_server: HttpServer, chat: str, body: object
) -> None:
    """Each accepts and refuses exactly what the other does."""
    raw = json.dumps(body).encode()
    hot = shared_server("POST", chat, raw=raw, content_type="application/json")
    ordinary = shared_server("POST", chat, raw=raw, content_type="application/json; charset=utf-8")
    assert ordinary.status == hot.status
    assert hot.status in (202, 400, 422)
    if hot.status != 202:
        assert hot.body == ordinary.body


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.text("/%?&=." + string.ascii_letters + string.digits, max_size=40),
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
)
def test_arbitrary_paths_do_no_harm(shared_server: HttpServer, path: str, method: str) -> None:
    """No path causes a server error."""
    assert shared_server(method, f"/api/v1/{path}").status < 500
