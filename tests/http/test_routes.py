"""Every route of the contract: statuses, headers and bodies."""

import re
import time
from contextlib import closing

import pytest

from backend.api import schemas
from backend.bootstrap import open_backend
from backend.domain.model import MAX_ISSUED, Parent, shard_of
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from tests.http.conftest import OPERATOR
from tests.support.http_server import ApplicationClient, HttpServer
from tests.support.redis_values import plant_counter
from tests.support.waiting import MARGIN_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
BEARER = f"Bearer {OPERATOR}"


# -- applications ----------------------------------------------------------------------------------


def test_an_application_is_created_shown_renamed_and_deleted(shared_server: HttpServer) -> None:
    """201, 200, 200, 204; then 404. The body has exactly the fields of the contract."""
    made = shared_server("POST", "/api/v1/applications", {"application": {"name": "Café ☕"}})
    assert (made.status, made.headers["content-type"]) == (201, "application/json")
    assert set(made.json) == {"token", "name", "chats_count", "created_at", "updated_at"}
    assert (made.json["name"], made.json["chats_count"]) == ("Café ☕", 0)
    assert TIME.match(made.json["created_at"])
    assert len(made.json["token"]) >= 22
    path = f"/api/v1/applications/{made.json['token']}"
    shown = shared_server("GET", path)
    assert (shown.status, shown.json, shown.headers["etag"]) == (
        200,
        made.json,
        made.headers["etag"],
    )
    renamed = shared_server("PATCH", path, {"application": {"name": "Bar"}})
    assert (renamed.status, renamed.json["name"]) == (200, "Bar")
    assert renamed.headers["etag"] != made.headers["etag"]
    deleted = shared_server("DELETE", path)
    assert (deleted.status, deleted.body) == (204, b"")
    assert shared_server("GET", path).status == 404
    assert shared_server("POST", f"{path}/chats").status == 404


def test_an_application_with_chats_is_deleted_with_cascade_only(app: ApplicationClient) -> None:
    """Otherwise 409, and nothing changes. With `cascade=true` 202, and everything inside is 404."""
    chat = app.chat()
    message = app.message(chat)
    refused = app.server("DELETE", app.path)
    assert (refused.status, refused.json["type"].rpartition(":")[2]) == (409, "has-children")
    assert app.server("GET", message).status == 200
    assert app.server("DELETE", f"{app.path}?cascade=true").status == 202
    for path in (app.path, chat, message, f"{chat}/messages"):
        assert app.server("GET", path).status == 404


def test_operators_list_applications_by_pages(shared_server: HttpServer) -> None:
    """Only with the operator's token. `next` is the page's last token and leads to the following page."""
    mine = [ApplicationClient(shared_server).token for _ in range(3)]
    assert shared_server("GET", "/api/v1/applications").status == 401
    wrong = shared_server("GET", "/api/v1/applications", authorization="Bearer wrong")
    assert (wrong.status, wrong.headers["www-authenticate"]) == (401, "Bearer")
    seen: list[str] = []
    after = ""
    while after is not None:
        page = shared_server("GET", f"/api/v1/applications?limit=2{after}", authorization=BEARER)
        assert page.status == 200
        assert len(page.json["items"]) <= 2
        seen += [item["token"] for item in page.json["items"]]
        after = page.json["next"] and f"&after={page.json['next']}"
    assert [token for token in seen if token in mine] == mine
    assert len(set(seen)) == len(seen)
    assert (
        shared_server("GET", "/api/v1/applications?after=nobody", authorization=BEARER).status
        == 404
    )


def test_without_an_admin_token_the_operators_routes_do_not_exist(own_server: HttpServer) -> None:
    """They get the same 404 as an unknown path, and are not in the OpenAPI document."""
    nowhere = own_server("GET", "/api/v1/nowhere")
    found = own_server("GET", "/api/v1/applications", authorization="Bearer ")
    assert (found.status, found.body) == (404, nowhere.body)  # although POST is there
    assert "get" not in own_server("GET", "/openapi.json").json["paths"]["/api/v1/applications"]
    assert nowhere.status == 404
    assert own_server("POST", "/api/v1/messages/reindex").json == nowhere.json


def test_operators_request_a_reindex(shared_server: HttpServer) -> None:
    """202, also without Elasticsearch, where there is nothing to build; 401 for others."""
    assert shared_server("POST", "/api/v1/messages/reindex").status == 401
    asked = shared_server("POST", "/api/v1/messages/reindex", authorization=BEARER)
    assert (asked.status, asked.body) == (202, b"")


def test_the_changes_of_the_operators_routes_are_audited(shared_server: HttpServer) -> None:
    """Those with the operator's token, with the address that they came from."""
    paths = shared_server("GET", "/openapi.json").json["paths"]
    changing = [
        (method.upper(), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation.get("tags") == ["operator"] and method != "get"
    ]
    assert changing == [("POST", "/api/v1/messages/reindex")]  # a new one belongs here
    with open_backend(shared_server.settings) as core:
        before = list(core.audit_trail.list())
        for method, path in changing:
            assert shared_server(method, path, authorization="Bearer wrong").status == 401
            assert shared_server(method, path, authorization=BEARER).status == 202
        after = list(core.audit_trail.list(limit=len(changing)))
        assert len(list(core.audit_trail.list())) == len(before) + len(changing)
    assert [(found.command, found.result) for found in reversed(after)] == [
        (f"{method} {path}", "accepted") for method, path in changing
    ]
    assert {found.actor for found in after} == {"admin token from 127.0.0.1"}


# -- chats -----------------------------------------------------------------------------------------


def test_chats_are_numbered_from_one_within_their_application(shared_server: HttpServer) -> None:
    """202 with the number at once. Each application starts at 1, and counts are live."""
    one, other = ApplicationClient(shared_server), ApplicationClient(shared_server)
    for number in (1, 2, 3):
        made = shared_server("POST", f"{one.path}/chats")
        assert (made.status, made.json) == (202, {"number": number})
    assert shared_server("POST", f"{other.path}/chats").json == {"number": 1}
    assert shared_server("GET", one.path).json["chats_count"] == 3
    chat = shared_server("GET", f"{one.path}/chats/2")
    assert chat.status in (200, 202)
    fourth = one.chat()
    shared_server.wait_found(fourth)
    shown = shared_server("GET", f"{one.path}/chats/2")
    assert set(shown.json) == {"number", "messages_count", "created_at", "updated_at"}
    page = shared_server("GET", f"{one.path}/chats?limit=3").json
    assert ([item["number"] for item in page["items"]], page["next"]) == ([1, 2, 3], 3)
    page = shared_server("GET", f"{one.path}/chats?after=3").json
    assert ([item["number"] for item in page["items"]], page["next"]) == ([4], None)


def test_a_chat_with_messages_is_deleted_with_cascade_only(app: ApplicationClient) -> None:
    """409, 202, then 404. The application's count falls, and the number is not used again."""
    chat = app.chat()
    app.message(chat)
    assert app.server("DELETE", chat).status == 409
    assert app.server("DELETE", f"{chat}?cascade=true").status == 202
    assert app.server("GET", chat).status == 404
    posted = app.server("POST", f"{chat}/messages", {"message": {"text": "late"}})
    assert posted.status == 404
    assert app.server("GET", app.path).json["chats_count"] == 0
    assert app.chat() == f"{app.path}/chats/2"
    assert app.server("DELETE", f"{app.path}/chats/2").status == 204


# -- messages --------------------------------------------------------------------------------------


def test_messages_are_created_listed_shown_edited_and_deleted(app: ApplicationClient) -> None:
    """Each gets its number, in order. A deleted message is 404, and its number is not used again."""
    chat = app.chat()
    path = f"{chat}/messages"
    for number in (1, 2, 3):
        made = app.server("POST", path, {"message": {"text": f"text {number} \U0001f600"}})
        assert (made.status, made.json) == (202, {"number": number})
        assert made.headers["content-type"] == "application/json"
    assert app.message(chat).endswith("/4")
    shown = app.server("GET", f"{path}/2")
    assert shown.status == 200
    assert list(shown.json) == list(schemas.Message.model_fields)
    assert (shown.json["number"], shown.json["text"]) == (2, "text 2 \U0001f600")
    edited = app.server("PATCH", f"{path}/2", {"message": {"text": "new"}})
    assert (edited.status, edited.json["text"]) == (200, "new")
    assert app.server("DELETE", f"{path}/3").status == 204
    assert app.server("GET", f"{path}/3").status == 404
    assert app.server("DELETE", f"{path}/3").status == 404
    page = app.server("GET", f"{path}?limit=2").json
    assert ([item["number"] for item in page["items"]], page["next"]) == ([1, 2], 2)
    page = app.server("GET", f"{path}?limit=2&after=2").json
    assert ([item["number"] for item in page["items"]], page["next"]) == ([4], None)
    assert app.server("GET", chat).json["messages_count"] == 3


def test_a_batch_gets_consecutive_numbers(app: ApplicationClient) -> None:
    """`first` and `last`, for 1 to 1,000 texts in their order."""
    path = f"{app.chat()}/messages"
    batch = {"messages": [{"text": f"line {i}"} for i in range(1000)]}
    made = app.server("POST", f"{path}/batch", batch)
    assert (made.status, made.json) == (202, {"first": 1, "last": 1000})
    more = app.server("POST", f"{path}/batch?wait=stored", {"messages": [{"text": "one"}]})
    assert more.json == {"first": 1001, "last": 1001}
    app.server.wait_found(f"{path}/1001")
    assert app.server("GET", f"{path}/778").json["text"] == "line 777"
    for wrong in ([], [{"text": "x"}] * 1001, [{"text": ""}], [{"text": "a"}, {"no": 1}]):
        assert app.server("POST", f"{path}/batch", {"messages": wrong}).status == 422


def test_search_finds_messages_of_the_chat_and_marks_the_keyword(app: ApplicationClient) -> None:
    """`keyword` lists the messages that contain it, with highlights, in pages like every list."""
    chat = app.chat()
    for text in ("One hundred", "two", "HUNDRED and one", "a hundred%_"):
        app.message(chat, text)
    path = f"{chat}/messages"
    found = app.server("GET", f"{path}?keyword=hundred&limit=2").json
    assert [item["number"] for item in found["items"]] == [1, 3]
    assert [item["highlight"] for item in found["items"]] == [[[4, 11]], [[0, 7]]]
    assert found["next"] == 3
    rest = app.server("GET", f"{path}?keyword=hundred&limit=2&after=3").json
    assert ([item["number"] for item in rest["items"]], rest["next"]) == ([4], None)
    assert (found.keys(), found["complete"]) == ({"items", "next", "complete"}, True)
    assert "complete" not in app.server("GET", path).json
    assert [i["number"] for i in app.server("GET", f"{path}?keyword=%25_").json["items"]] == [4]
    for wrong in ("", "%D9%8B", "x" * 257):
        assert app.server("GET", f"{path}?keyword={wrong}").status == 422


def test_search_over_all_chats_pages_newest_first(app: ApplicationClient) -> None:
    """Each match once, with its chat. A cursor names no database id, and nothing of others is found."""
    chats = [app.chat() for _ in range(3)]
    for n in range(9):
        app.message(chats[n % 3], f"a badger, {n}")
    app.message(chats[0], "no such animal")
    other = ApplicationClient(app.server)
    other.message(other.chat(), "another badger")
    path = f"{app.path}/messages"
    whole = app.server("GET", f"{path}?keyword=BADGER")
    assert (whole.json["next"], whole.json["complete"]) == (None, True)
    items = whole.json["items"]
    assert [item["text"] for item in items] == [f"a badger, {n}" for n in range(9)][::-1]
    assert [(item["chat"], item["number"]) for item in items[:3]] == [(3, 3), (2, 3), (1, 3)]
    assert items[0]["highlight"] == [[2, 8]]
    paged, cursor = [], ""
    while cursor is not None:
        page = app.server("GET", f"{path}?keyword=badger&limit=4{cursor}").json
        paged += page["items"]
        cursor = page["next"] and f"&cursor={page['next']}"
    assert paged == items
    tag = whole.headers["etag"]
    url = f"{path}?keyword=BADGER"
    assert app.server("GET", url, if_none_match=tag).status == 304
    head = app.server("HEAD", url)
    assert (head.status, head.headers["etag"], head.body) == (200, tag, b"")
    for wrong in ("", "keyword=", "keyword=a&after=1", "keyword=a&cursor=1", "keyword=%D9%8B"):
        assert app.server("GET", f"{path}?{wrong}").status == 422, wrong
    assert app.server("GET", "/api/v1/applications/nobody/messages?keyword=a").status == 404


# -- accepted and not stored yet -------------------------------------------------------------------


def test_an_accepted_number_is_never_404(own_server: HttpServer) -> None:
    """Without a worker, a read waits a second and gets 202. Unknown numbers get 404."""
    app = ApplicationClient(own_server)
    chat = app.chat()
    made = own_server("POST", f"{chat}/messages", {"message": {"text": "soon"}})
    assert made.status == 202
    began = time.monotonic()
    read = own_server("GET", f"{chat}/messages/1")
    assert (read.status, read.json) == (202, {"number": 1, "status": "accepted"})
    assert time.monotonic() - began > 0.9
    assert own_server("GET", chat).status == 202
    assert own_server("GET", f"{chat}/messages/2").status == 404
    assert own_server("GET", f"{app.path}/chats/2").status == 404


def test_waiting_for_stored_gives_201_once_it_is(app: ApplicationClient) -> None:
    """Of one and of a batch; as 202 if it takes more than five seconds, so it is tried until it does not."""
    path = f"{app.chat()}/messages"
    one, batch = {"message": {"text": "x"}}, {"messages": [{"text": "x"}]}
    for each, body in ((path, one), (f"{path}/batch", batch), (f"{app.path}/chats", None)):
        wait_until(
            lambda each=each, body=body: (  # type: ignore[misc]
                app.server("POST", f"{each}?wait=stored", body).status == 201
            )
        )


def test_waiting_for_stored_gives_202_if_it_takes_longer_than_5_s(own_server: HttpServer) -> None:
    """With the same body as without `wait`."""
    chat = ApplicationClient(own_server).chat()
    began = time.monotonic()
    made = own_server("POST", f"{chat}/messages?wait=stored", {"message": {"text": "x"}})
    assert (made.status, made.json) == (202, {"number": 1})
    assert 4.5 < time.monotonic() - began < 5 + MARGIN_SECONDS


# -- conditions and keys ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["application", "message"])
def test_if_match_is_honoured(app: ApplicationClient, what: str) -> None:
    """A stale or foreign tag gets 409 and changes nothing; the current one and `*` succeed."""
    path = app.path if what == "application" else app.message(app.chat())
    body = {what: {"name": "new", "text": "new"}}
    tag = app.server("GET", path).headers["etag"]
    assert app.server("PATCH", path, body, if_match='"1"').status == 409
    assert app.server("PATCH", path, body, if_match='"not ours"').status == 409
    assert app.server("PATCH", path, body, if_match="no quotes").status == 409
    assert app.server("PATCH", path, body, if_match=f'"1", W/{tag}').status == 409
    changed = app.server("PATCH", path, body, if_match=f'"1",{tag} , "2"')
    assert changed.status == 200
    assert app.server("PATCH", path, body, if_match=tag).status == 409
    assert app.server("PATCH", path, body, if_match="*").status == 200
    assert app.server("DELETE", path, if_match=tag).status == 409
    current = app.server("GET", path).headers["etag"]
    assert app.server("DELETE", path, if_match=current).status == 204


def test_an_idempotency_key_creates_once(app: ApplicationClient) -> None:
    """The same key and body get the same response, another body 409. Keys are separate for each route."""
    chat = app.chat()
    for path, body, other in (
        (f"{app.path}/chats", None, None),
        (f"{chat}/messages", {"message": {"text": "a"}}, {"message": {"text": "b"}}),
        (f"{chat}/messages/batch", {"messages": [{"text": "a"}]}, {"messages": [{"text": "b"}]}),
        (
            "/api/v1/applications",
            {"application": {"name": app.token}},
            {"application": {"name": "b"}},
        ),
    ):
        key = f"key {app.token}"
        first = app.server("POST", path, body, idempotency_key=key)
        again = app.server("POST", path, body, idempotency_key=key)
        assert first.status < 300
        assert (again.status, again.json) == (first.status, first.json)
        assert again.headers.get("etag") == first.headers.get("etag")
        if other:
            reused = app.server("POST", path, other, idempotency_key=key)
            assert (reused.status, reused.json["type"].rpartition(":")[2]) == (409, "key-reused")
        assert app.server("POST", path, body, idempotency_key="x" * 256).status == 422
    assert app.server("GET", app.path).json["chats_count"] == 2
    assert app.server("GET", chat).json["messages_count"] == 2


def test_a_chat_without_numbers_left_takes_no_message(app: ApplicationClient) -> None:
    """409 on every route, also for requests that wait until they are stored; no number is given twice."""
    chat = app.chat()
    redis_url = app.server.settings.redis_url
    assert redis_url
    log = Log(redis_url)
    with closing(log), closing(Database(app.server.settings.database_url or "")) as database:
        shard = shard_of(app.token, database.installation.shards)
        plant_counter(log, shard, Parent(app.token, 1), issued=MAX_ISSUED)
    last = app.server("POST", f"{chat}/messages?wait=stored", {"message": {"text": "last"}})
    assert (last.status, last.json) == (201, {"number": MAX_ISSUED + 1})
    for path, body in (
        ("messages", {"message": {"text": "a"}}),
        ("messages?wait=stored", {"message": {"text": "a"}}),
        ("messages/batch", {"messages": [{"text": "a"}, {"text": "b"}]}),
    ):
        refused = app.server("POST", f"{chat}/{path}", body)
        kind = refused.json["type"].rpartition(":")[2]
        assert (refused.status, kind) == (409, "numbers-exhausted"), path
    assert app.server("GET", f"{chat}/messages/{MAX_ISSUED + 1}").json["text"] == "last"


def test_a_repeated_creation_returns_the_original_response(
    shared_server: HttpServer,
) -> None:
    """Even if the application was renamed meanwhile."""
    body = {"application": {"name": "first"}}
    made = shared_server("POST", "/api/v1/applications", body, idempotency_key="a key of its own")
    path = f"/api/v1/applications/{made.json['token']}"
    assert shared_server("PATCH", path, {"application": {"name": "second"}}).status == 200
    again = shared_server("POST", "/api/v1/applications", body, idempotency_key="a key of its own")
    assert (again.status, again.json) == (201, made.json)
