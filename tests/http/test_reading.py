"""The ways to read a list, their totals, and `If-None-Match`."""

from datetime import datetime, timedelta, timezone

import pytest

from tests.http.conftest import OPERATOR
from tests.support.http_server import ApplicationClient, HttpServer

pytestmark = pytest.mark.xdist_group("http")
BEARER = f"Bearer {OPERATOR}"


@pytest.fixture
def messages(app: ApplicationClient) -> str:
    """The path of a chat's messages 1 to 9, of which 4 is deleted."""
    path = f"{app.chat()}/messages"
    texts = {"messages": [{"text": f"text {number}"} for number in range(1, 10)]}
    app.server("POST", f"{path}/batch?wait=stored", texts)
    app.server.wait_found(f"{path}/9")
    assert app.server("DELETE", f"{path}/4").status == 204
    return path


@pytest.mark.parametrize(
    ("query", "numbers", "next_"),
    [
        ("", [1, 2, 3, 5, 6, 7, 8, 9], None),
        ("limit=3", [1, 2, 3], 3),
        ("limit=3&after=3", [5, 6, 7], 7),
        ("order=asc&before=6&limit=4", [1, 2, 3, 5], None),
        ("after=2&before=9&limit=4", [3, 5, 6, 7], 7),
        ("order=desc&limit=3", [9, 8, 7], 7),
        ("order=desc&limit=3&before=7", [6, 5, 3], 3),
        ("order=desc&before=3", [2, 1], None),
        ("order=desc&after=6&limit=2", [9, 8], 8),
        ("after=9", [], None),
        ("after=5&before=6", [], None),
        ("after=9&before=9", [], None),
        ("before=1", [], None),
        ("around=5&limit=5", [2, 3, 5, 6, 7], 7),
        ("around=5&limit=4", [3, 5, 6], 6),
        ("around=4&limit=5", [2, 3, 5, 6], 6),
        ("around=1&limit=5", [1, 2, 3], 3),
        ("around=9&limit=3", [8, 9], None),
        ("around=5&limit=3&order=desc", [6, 5, 3], 3),
        ("around=2&limit=3&order=desc", [3, 2, 1], None),
        ("around=5", [1, 2, 3, 5, 6, 7, 8, 9], None),
        ("around=1000&limit=5", [8, 9], None),
        ("around=4&limit=1", [], 4),
        ("numbers=9,1,4,1,77", [1, 9], None),
        ("numbers=9,1,5&order=desc", [9, 5, 1], None),
        ("numbers=" + ",".join(["3"] * 200), [3], None),
    ],
)
def test_a_list_is_read_from_either_end(
    shared_server: HttpServer, messages: str, query: str, numbers: list[int], next_: int | None
) -> None:
    """`next` continues it, as `after` or, descending, as `before`. `total` is the chat's live count."""
    page = shared_server("GET", f"{messages}?{query}")
    assert page.status == 200
    assert list(page.json) == ["items", "next", "total"]
    assert [item["number"] for item in page.json["items"]] == numbers
    assert page.json["next"] == next_
    assert page.json["total"] == 8


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("before=0", "before"),
        ("before=x", "before"),
        ("order=newest", "order"),
        ("order=", "order"),
        ("after=7&before=6", "no number is after 7 and before 6"),
        ("around=0", "around"),
        ("around=5&after=1", "`after` cannot be combined with `around`"),
        ("around=5&before=9", "`before` cannot be combined with `around`"),
        ("since=yesterday", "since: not an RFC 3339 time such as"),
        ("since=2h", "since: not an RFC 3339 time such as"),
        ("until=2026-01-31", "until: not an RFC 3339 time such as"),
        ("until=2026-02-30T00:00:00Z", "until: not a time that exists"),
        ("until=2026-01-31T00:00:00+01:00", "until: not an RFC 3339 time such as"),  # + is a space
        ("since=2026-01-31T00:00:00Z&until=2026-01-30T00:00:00Z", "`since` is the later one"),
        ("around=5&since=2026-01-31T00:00:00Z", "`since` cannot be combined with `around`"),
        ("numbers=5&until=2026-01-31T00:00:00Z", "`until` cannot be combined with `numbers`"),
        ("keyword=x&since=2026-01-31T00:00:00Z", "`since` cannot be combined with `keyword`"),
        ("numbers=", "numbers"),
        ("numbers=1,,2", "numbers"),
        ("numbers=1,0", "numbers"),
        ("numbers=1,-2", "numbers"),
        ("numbers=1,%202", "numbers"),
        ("numbers=" + ",".join(["3"] * 201), "1 to 200 numbers"),
        ("numbers=1&limit=5", "`limit` cannot be combined with `numbers`"),
        ("numbers=1&around=5", "`around` cannot be combined with `numbers`"),
        ("keyword=x&numbers=5", "`numbers` cannot be combined with `keyword`"),
        ("keyword=x&order=desc", "`order` cannot be combined with `keyword`"),
        ("keyword=x&before=5", "`before` cannot be combined with `keyword`"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    shared_server: HttpServer, messages: str, query: str, reason: str
) -> None:
    """422, and the detail says why."""
    answer = shared_server("GET", f"{messages}?{query}")
    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (422, "invalid")
    assert reason in answer.json["detail"]


def test_a_list_is_read_between_two_times(shared_server: HttpServer, messages: str) -> None:
    """From `since` on and before `until`, whichever time zone they are written in; pages as in any list."""
    parent = messages.removesuffix("/messages")
    assert shared_server("POST", messages, {"message": {"text": "late"}}).json == {"number": 10}
    shared_server.wait_found(f"{messages}/10")
    created = {m["number"]: m["created_at"] for m in shared_server("GET", messages).json["items"]}
    at = datetime.fromisoformat(created[10])
    assert created[9] < created[10]
    elsewhere = at.astimezone(timezone(timedelta(hours=-8))).isoformat()
    earlier = [number for number, time in created.items() if time < created[10]]
    for query, expected in (
        (f"since={created[10]}", [10]),
        (f"since={elsewhere}", [10]),
        (f"until={created[10]}", earlier),
        (f"until={created[10]}&order=desc", earlier[::-1]),
        (f"since={created[1]}&until={created[10]}", earlier),
        (f"since={created[1]}&until={created[10]}&after=5&before=9", [6, 7, 8]),
        (f"since={created[10]}&until={created[10]}", []),
        ("since=2001-01-01T00:00:00Z", [*earlier, 10]),
        ("until=2001-01-01t00:00:00z", []),
    ):
        page = shared_server("GET", f"{messages}?{query}").json
        assert [item["number"] for item in page["items"]] == expected, query
        assert page["total"] == shared_server("GET", parent).json["messages_count"]
    page = shared_server("GET", f"{messages}?until={created[10]}&limit=3").json
    assert page["next"] == earlier[2]
    rest = shared_server("GET", f"{messages}?until={created[10]}&after={page['next']}").json
    assert [item["number"] for item in rest["items"]] == earlier[3:]


def test_a_list_of_chats_has_a_total(app: ApplicationClient) -> None:
    """The live count of the application's chats, whatever the page shows."""
    chats = [app.chat() for _ in range(3)]
    app.server.wait_found(chats[2])
    page = app.server("GET", f"{app.path}/chats?limit=1&after=1").json
    assert ([item["number"] for item in page["items"]], page["next"]) == ([2], 2)
    assert page["total"] == 3
    assert app.server("DELETE", chats[0]).status == 204
    assert app.server("GET", f"{app.path}/chats").json["total"] == 2


def test_a_list_of_a_chat_that_is_not_stored_yet_is_empty(own_server: HttpServer) -> None:
    """Without a worker: 200, and the total counts what was accepted."""
    app = ApplicationClient(own_server)
    chat = app.chat()
    own_server("POST", f"{chat}/messages", {"message": {"text": "soon"}})
    for order in ("asc", "desc"):
        page = own_server("GET", f"{chat}/messages?order={order}").json
        assert page == {"items": [], "next": None, "total": 1}


@pytest.fixture
def targets(app: ApplicationClient, messages: str) -> dict[str, str]:
    """A path of each kind that is read by GET."""
    return {
        "application": app.path,
        "chats": f"{app.path}/chats",
        "chat": messages.removesuffix("/messages"),
        "messages": messages,
        "newest messages": f"{messages}?order=desc",
        "message": f"{messages}/1",
        "search": f"{messages}?keyword=text",
    }


@pytest.mark.parametrize(
    "what",
    ["application", "chats", "chat", "messages", "newest messages", "message", "search"],
)
def test_what_has_not_changed_is_not_sent_again(
    shared_server: HttpServer, targets: dict[str, str], what: str
) -> None:
    """304 with the ETag and no body, if `If-None-Match` lists the ETag; otherwise 200 with the body."""
    path = targets[what]
    read = shared_server("GET", path)
    tag = read.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        same = shared_server("GET", path, if_none_match=known)
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
    for unknown in ('"other"', tag.strip('"'), ""):
        again = shared_server("GET", path, if_none_match=unknown)
        assert (again.status, again.body, again.headers["etag"]) == (200, read.body, tag)


def test_operators_lists_have_an_etag(shared_server: HttpServer, app: ApplicationClient) -> None:
    """A rename changes the ETag of a list that shows the application."""
    path = f"/api/v1/applications?limit=1&after={app.token}"
    other = ApplicationClient(shared_server)
    read = shared_server("GET", path, authorization=BEARER)
    assert [item["token"] for item in read.json["items"]] == [other.token]
    tag = read.headers["etag"]
    same = shared_server("GET", path, authorization=BEARER, if_none_match=tag)
    assert (same.status, same.body) == (304, b"")
    assert shared_server("PATCH", other.path, {"application": {"name": "new"}}).status == 200
    changed = shared_server("GET", path, authorization=BEARER, if_none_match=tag)
    assert (changed.status, changed.json["items"][0]["name"]) == (200, "new")


def test_every_change_changes_the_etag_of_what_shows_it(
    app: ApplicationClient, targets: dict[str, str]
) -> None:
    """Live counts included: 304 never hides one."""
    tags = {what: app.server("GET", path).headers["etag"] for what, path in targets.items()}

    def changed() -> set[str]:
        answers = {
            what: app.server("GET", path, if_none_match=tags[what])
            for what, path in targets.items()
        }
        tags.update({what: answer.headers["etag"] for what, answer in answers.items()})
        return {what for what, answer in answers.items() if answer.status == 200}

    messages, edited = targets["messages"], {"message": {"text": "edited text"}}
    lists = {"messages", "newest messages"}
    assert changed() == set()
    app.message(targets["chat"], "another one")
    assert changed() == lists | {"chats", "chat"}
    assert app.server("PATCH", f"{messages}/1", edited).status == 200
    assert changed() == lists | {"message", "search"}
    assert app.server("DELETE", f"{messages}/2").status == 204
    assert changed() == lists | {"chats", "chat", "search"}
    assert app.server("PATCH", app.path, {"application": {"name": "new"}}).status == 200
    assert changed() == {"application"}
    chat = app.chat()
    app.server.wait_found(chat)
    assert changed() == {"application", "chats"}
