"""Reads on the fast path: they answer as the ordinary route does, in any order, and are never out of date."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_plus

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.api.server.fast_read import read_of_head
from backend.bootstrap import open_backend
from backend.domain.model import MAX_BATCH, Message
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.database import Database
from backend.storage.postgres.grouped_reads import GroupedRead
from tests.conftest import Engines
from tests.http.test_connection import connect_raw, request
from tests.support.engines import RedisServer
from tests.support.faults.shortcuts import rejecting_texts
from tests.support.http_server import ApplicationClient, HttpResponse, HttpServer, running_server
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")
TEXTS = ["plain", 'quotes " and \\', "\x01\x1f\x7f\n\t", "ünïcode \U0001f600 \u2028", "a" * 10_000]
REMOVED, REJECTED, LAST = 3, 6, 9


class Chat(NamedTuple):
    """A chat with a removed and a rejected message, in an application with an empty and a removed chat."""

    server: HttpServer
    application: str

    def get(self, path: str, *, ordinary: bool, **headers: str) -> HttpResponse:
        """GET a path of the application. A request with a length takes the ordinary route."""
        if ordinary:
            headers["content_length"] = "0"
        return self.server(
            "GET", f"{self.application}{path}", raw=None, timeout=PATIENCE_SECONDS, **headers
        )


@pytest.fixture(scope="module")
def chat(shared_server: HttpServer) -> Chat:
    """Everything that a read can find."""
    app = ApplicationClient(shared_server)
    with open_backend(shared_server.settings) as core, rejecting_texts(core.database):
        core.acceptor.accept(AcceptRequest.chats(app.token, 3))
        texts = [*TEXTS, "refused by SQL", "edited", "seven", "nine"]
        core.acceptor.accept(AcceptRequest.messages(app.token, 1, texts))
        core.drainer.drain_all()
        core.catalog.messages.delete(app.token, 1, REMOVED)
        core.catalog.messages.edit(app.token, 1, 7, {"text": "edited later"})
        core.catalog.chats.delete(app.token, 3)
        core.drainer.drain_all()
    return Chat(shared_server, app.path)


def relevant(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that do not differ between any two responses."""
    return {name: headers[name] for name in headers if name not in {"date", "x-request-id"}}


def agree(chat: Chat, path: str, **headers: str) -> HttpResponse:
    """The response of the fast path, which is the ordinary route's."""
    fast = chat.get(path, ordinary=False, **headers)
    ordinary = chat.get(path, ordinary=True, **headers)
    assert (fast.status, fast.body) == (ordinary.status, ordinary.body), path
    assert relevant(fast.headers) == relevant(ordinary.headers), path
    return fast


NUMBERS = st.integers(0, LAST + 2) | st.sampled_from([2**53 - 1, 2**53, 10**15, 10**18, 10**20])
# Encoded in the usual ways, and in unusual ones; what is not valid, or folds to nothing.
KEYWORDS = st.one_of(
    st.text(st.sampled_from('ae ïÜ%+&#="\\\x01\u0640\U0001f600'), max_size=3).map(quote_plus),
    st.text(st.sampled_from("aE+*=?/'"), min_size=1, max_size=2),
    st.sampled_from(
        ["", "%", "%zz", "%ff", "%00", "%D9%80", "a" * 256, "a" * 257, "E", "%ED%A0%80"]
    ),
)
PARAMETERS = st.one_of(
    st.builds("keyword={}".format, KEYWORDS),
    st.builds("{}={}".format, st.sampled_from(["after", "before", "limit"]), NUMBERS),
    st.sampled_from(
        ["order=desc", "order=asc", "order=", "limit=007", "after=-1", "unknown=1", ""]
    ),
)
QUERIES = st.lists(PARAMETERS, max_size=3).map(lambda given: "?" + "&".join(given) if given else "")
PATHS = st.one_of(
    st.just(""),
    st.builds("/chats{}".format, QUERIES),
    st.builds("/chats/{}{}".format, st.integers(0, 5), st.sampled_from(["", "?", "?limit=5"])),
    st.builds("/chats/{}/messages{}".format, st.integers(1, 5), QUERIES),
    st.sampled_from(["%2Fchats", "/chats%2f1", "/chats/1%2Fmessages", "/chats/1/messages%2F1"]),
    st.builds("/chats/1/messages?keyword={}".format, KEYWORDS),
    st.builds("/chats/1/messages?limit={1}&keyword={0}".format, KEYWORDS, st.integers(1, 5)),
    st.builds("/chats/1/messages/{}{}".format, NUMBERS, st.sampled_from(["", "?", "?x=1"])),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=PATHS)
def test_the_fast_path_and_the_route_answer_alike(chat: Chat, path: str) -> None:
    """Status, body and headers, whatever is asked for; and with the tag of the answer, the same 304."""
    found = agree(chat, path)
    assert found.status in (200, 404, 410, 422)
    if found.status == 200:
        tag = found.headers["etag"]
        for tags in (tag, f'"other", W/{tag}', "*"):
            assert agree(chat, path, if_none_match=tags).status == 304
        assert agree(chat, path, if_none_match='"other"').status == 200


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("", grouped_reads.APPLICATIONS),
        ("/chats?limit=5", grouped_reads.CHAT_PAGES),
        ("/chats/1", grouped_reads.CHATS),
        ("/chats/1/messages", grouped_reads.PAGES),
        ("/chats/1/messages?order=desc&before=5", grouped_reads.NEWEST_PAGES),
        ("/chats/1/messages?keyword=e&limit=5", grouped_reads.SEARCHES),
        ("/chats/1/messages/1", grouped_reads.MESSAGES),
    ],
)
def test_plain_reads_take_the_fast_path(chat: Chat, path: str, statement: GroupedRead) -> None:
    """The comparison above would also hold if the ordinary route answered all of them."""
    need_sessions()
    database = Database(str(chat.server.settings.database_url))
    executed = sqlalchemy.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE :query"
    )

    def is_executed() -> bool:
        assert chat.get(path, ordinary=False).status == 200
        with database.connect() as connection:
            query = f"EXECUTE {statement.name}(%"
            return bool(connection.scalar(executed, {"query": query}))

    wait_until(is_executed)  # the first read opens the connections
    database.close()


def chats_with(server: HttpServer, *chats: Sequence[str]) -> Chat:
    """Chats of a new application with these texts, which are stored."""
    app = ApplicationClient(server)
    with open_backend(server.settings) as core:
        core.acceptor.accept(AcceptRequest.chats(app.token, len(chats)))
        for number, texts in enumerate(chats, 1):
            for start in range(0, len(texts), MAX_BATCH):
                part = texts[start : start + MAX_BATCH]
                core.acceptor.accept(AcceptRequest.messages(app.token, number, part))
        for number, texts in enumerate(chats, 1):
            last = core.catalog.messages.get
            wait_until(lambda: isinstance(last(app.token, number, len(texts)), Message))  # noqa: B023
    return Chat(server, app.path)


def test_a_search_that_ends_before_its_chat_takes_the_ordinary_route(chat: Chat) -> None:
    """Its scan is bounded. A page that is full within the bound is complete, and so is the end of a chat."""
    bound = grouped_reads.SCANNED_NUMBERS
    texts = ["first", "first", *["later"] * (bound - 2), "last"]
    large = chats_with(chat.server, texts[:bound], texts)
    for number in (1, 2):
        stored = bound + number - 1
        for query, found, next_ in (
            ("first", [1, 2], None),
            ("first&limit=1", [1], 1),
            ("first&limit=2", [1, 2], None),
            (f"la&after={stored - 1}", [stored], None),
            (f"la&limit=1&after={stored - 1}", [stored], None),
            (f"la&limit=1&after={stored - 2}", [stored - 1], stored - 1),
            ("last", [stored] * (number - 1), None),
            ("nowhere", [], None),
        ):
            answer = agree(large, f"/chats/{number}/messages?keyword={query}").json
            assert [item["number"] for item in answer["items"]] == found
            assert (answer["next"], answer["complete"]) == (next_, True)


def test_a_search_of_long_texts_takes_the_ordinary_route(chat: Chat) -> None:
    """It would keep the event loop busy. Their places are the same."""
    long = chats_with(chat.server, ["ﬁne " * 2_500, "fine " * 2_000, "Ünïcode " * 800])
    answer = agree(long, "/chats/1/messages?keyword=FI").json
    assert [len(item["highlight"]) for item in answer["items"]] == [2_500, 2_000]
    assert agree(long, "/chats/1/messages?keyword=FI&after=1").json["items"] == answer["items"][1:]


def test_a_page_of_a_search_ends_where_its_keyword_was_found_very_often(chat: Chat) -> None:
    """The answer is bounded. Its `next` goes on."""
    often = chats_with(chat.server, ["a" * 6_000] * 5)
    found, after = [], 0
    while after is not None:
        answer = agree(often, f"/chats/1/messages?keyword=a&limit=200&after={after}").json
        found.append([item["number"] for item in answer["items"]])
        assert all(len(item["highlight"]) == 6_000 for item in answer["items"])
        after = answer["next"]
    assert found == [[1, 2], [3, 4], [5]]


def test_a_text_that_folds_to_many_times_its_length_is_searched_alone(chat: Chat) -> None:
    """A statement that serves many requests scans no such text, which the ordinary route then does."""
    texts = ["apple", "\ufdfa" * 1_500, "a pear", "pear \ufdfa" * 1_000, "\u0640" * 9_999 + "z"]
    dear = chats_with(chat.server, texts)
    for keyword, found in (
        ("apple", [1]),
        ("pear", [3, 4]),
        ("صلى", [2, 4]),
        ("plum", []),
        ("z", [5]),
    ):
        answer = agree(dear, f"/chats/1/messages?keyword={quote_plus(keyword)}").json
        assert [item["number"] for item in answer["items"]] == found
        assert answer["next"] is None


@pytest.mark.parametrize("query", ["order=asc", "order=desc", "before=5", "keyword=x"])
def test_parameters_of_messages_take_the_ordinary_route_for_chats(chat: Chat, query: str) -> None:
    """Also with the values that they have by default: only the route decides what they mean there."""
    path = f"{chat.application}/chats"
    assert read_of_head(path.encode(), [])
    assert read_of_head(f"{path}/1/messages?{query}".encode(), [])
    assert read_of_head(f"{path}?{query}".encode(), []) is None


def test_numbers_that_are_not_there_are_described_by_the_route(chat: Chat) -> None:
    """404 for unknown and removed ones, 410 for a rejected one."""
    statuses = {
        number: agree(chat, f"/chats/1/messages/{number}").status
        for number in (1, REMOVED, REJECTED, LAST, LAST + 1)
    }
    assert statuses == {1: 200, REMOVED: 404, REJECTED: 410, LAST: 200, LAST + 1: 404}
    assert [agree(chat, f"/chats/{number}").status for number in (1, 2, 3, 4)] == [
        200,
        200,
        404,
        404,
    ]


def test_pipelined_reads_are_answered_in_order(chat: Chat) -> None:
    """Reads, creations and requests for the ordinary route, sent at once on one connection."""
    paths = ["/chats/1/messages/1", "/chats/1", "/chats/1/messages/2", "/healthz", "/chats/9"]
    with connect_raw(chat.server) as to:
        to.send(
            *(
                request(
                    path if path == "/healthz" else chat.application + path,
                    *(b"Accept: */*",),
                    method=b"GET",
                    body=b"",
                )
                for path in paths
            )
        )
        got = [to.answer("GET") for _ in paths]
    assert [status for status, _, _ in got] == [200, 200, 200, 200, 404]
    assert [got[place][1]["number"] for place in (0, 1, 2)] == [1, 1, 2]


def test_a_read_that_a_change_follows_at_once_stays_a_read(app: ApplicationClient) -> None:
    """It takes the ordinary route before the change's method and path are known."""
    message = app.message(app.chat())
    messages = message.rpartition("/")[0]
    read, missing = (
        request(path, b"Accept: */*", method=b"GET", body=b"")
        for path in (message, f"{messages}/9")
    )
    with connect_raw(app.server) as to:
        to.send(missing, request(messages), read, request(message, method=b"PATCH"), missing, read)
        got = [to.answer(method) for method in ("GET", "POST", "GET", "PATCH", "GET", "GET")]
    assert [status for status, _, _ in got] == [404, 202, 200, 200, 404, 200]
    assert [body["number"] for status, body, _ in got if status < 300] == [2, 1, 1, 1]


def test_a_client_may_close_after_its_read(chat: Chat) -> None:
    """The connection is closed when the client asks for it, also by a 404 and a 304."""
    for path, status in (("/chats/1", 200), ("/chats/1/messages/99", 404)):
        answer = agree(chat, path, connection="close")
        assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.fixture
def two_processes(engines: Engines, own_redis: RedisServer, tmp_path: Path) -> Iterator[HttpServer]:
    """A server of two processes."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    with running_server(settings, tmp_path, "--workers", "2") as server:
        yield server


def answer(connection: HTTPConnection, method: str, path: str) -> tuple[int, bytes, str]:
    """The status, the body and the server's process of a request."""
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read(), response.headers["x-request-id"][:12]


def test_what_one_process_deletes_no_other_shows(two_processes: HttpServer) -> None:
    """A read that begins after the deletion was answered never shows the message, nor counts it."""
    app = ApplicationClient(two_processes)
    path = app.chat()
    with open_backend(two_processes.settings) as core:
        core.acceptor.accept(AcceptRequest.messages(app.token, 1, ["x"] * 40))
        core.drainer.drain_all()
    with ExitStack() as stack:
        by_process: dict[str, HTTPConnection] = {}

        def both() -> bool:
            connection = stack.enter_context(two_processes.connected())
            _, _, process = answer(connection, "GET", path)
            by_process.setdefault(process, connection)
            return len(by_process) == 2

        wait_until(both)
        deleting, reading = by_process.values()
        for number in range(1, 41):
            message = f"{path}/messages/{number}"
            assert answer(reading, "GET", message)[0] == 200
            assert answer(deleting, "DELETE", message)[0] == 204
            assert answer(reading, "GET", message)[0] == 404
            left = 40 - number
            assert b'"messages_count":%d,' % left in answer(reading, "GET", path)[1]
            assert b'"total":%d}' % left in answer(reading, "GET", f"{path}/messages?limit=1")[1]
