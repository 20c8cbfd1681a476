"""Connections: split, pipelined and invalid requests; each response in its order."""

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPResponse
from types import SimpleNamespace
from typing import Any

import pytest

from backend.api.serve import create_server
from backend.api.server import connection
from backend.api.server.address import open_listeners
from backend.bootstrap import Backend
from backend.settings import Settings
from tests.support.http_server import ApplicationClient, HttpServer, server_processes
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")

BODY = b'{"message": {"text": "counted"}}'
USUAL = (b"Content-Type: application/json", b"Content-Length: %d" % len(BODY))


class RawClient:
    """A socket, and the responses that arrive on it, in order."""

    def __init__(self, server: HttpServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)
        self._file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> "RawClient":
        """Send all parts at once."""
        self.socket.sendall(b"".join(parts))
        return self

    def answer(self, method: str = "POST") -> tuple[int, Any, bool]:
        """The next response: its status, its JSON, and whether it keeps the connection open."""
        response = HTTPResponse(self, method=method)  # type: ignore[arg-type]  # it has `makefile`
        response.begin()
        self.headers = response.headers
        body = json.loads(response.read() or b"null")
        return response.status, body, not response.will_close

    def makefile(self, _: str) -> Any:
        """For HTTPResponse, which closes the file that it reads from: a file that it can't close."""
        return _UnclosableFile(self._file)

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection, and nothing is left to read. Blocks until known."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()


class _UnclosableFile:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None: ...


@contextmanager
def connect_raw(server: HttpServer) -> Iterator[RawClient]:
    """A raw connection to a server."""
    with closing(RawClient(server)) as opened:
        yield opened


def request(path: str, *headers: bytes, method: bytes = b"POST", body: bytes = BODY) -> bytes:
    """The bytes of a request. Without `headers` it has a content type and a length."""
    named = headers or (b"Content-Type: application/json", b"Content-Length: %d" % len(body))
    lines = (b"%s %s HTTP/1.1" % (method, path.encode()), b"Host: a", *named, b"", body)
    return b"\r\n".join(lines)


@contextmanager
def serve_in_process(settings: Settings) -> Iterator[Any]:
    """A server in this process, so that a test can change its limits."""
    listening = open_listeners("127.0.0.1", 0, 1)[0]
    server = create_server(settings, [])
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield SimpleNamespace(port=listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def path(app: ApplicationClient) -> str:
    """The path of the messages of a new chat."""
    return f"{app.chat()}/messages"


def test_pipelined_requests_are_answered_in_order(shared_server: HttpServer, path: str) -> None:
    """Requests of the fast path and of the ordinary route; an invalid one does not affect the others."""
    with connect_raw(shared_server) as to:
        to.send(
            request(path),
            request(path),
            request("/healthz", b"Accept: */*", method=b"GET", body=b""),
            request(path, body=b"{"),
            request(f"{path}?"),
            request(path),
        )
        got = [to.answer("GET" if at == 2 else "POST") for at in range(6)]
    assert [status for status, _, _ in got] == [202, 202, 200, 400, 202, 202]
    assert [got[at][1]["number"] for at in (0, 1, 4, 5)] == [1, 2, 3, 4]
    assert all(stays for _, _, stays in got)


def test_a_split_request_is_answered_like_a_whole_one(shared_server: HttpServer, path: str) -> None:
    """Sent byte by byte, and with the body after the head, as many clients do."""
    with connect_raw(shared_server) as to:
        for at, byte in enumerate(request(path)):
            to.send(bytes([byte]))
            if at % 20 == 0:
                time.sleep(0.001)
        assert to.answer()[:2] == (202, {"number": 1})
        whole = request(path)
        to.send(whole[: -len(BODY)])
        time.sleep(0.1)
        assert to.send(BODY).answer()[:2] == (202, {"number": 2})


def test_connection_close_is_honoured_after_the_answer(
    shared_server: HttpServer, path: str
) -> None:
    """By `Connection: close`, or by HTTP/1.0."""
    length = b"Content-Length: %d" % len(BODY)
    for sent in (
        request(path, b"Connection: close", b"Content-Type: application/json", length),
        request(path).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with connect_raw(shared_server) as to:
            status, _, stays = to.send(sent).answer()
            assert (status, stays) == (202, False)
            assert to.is_closed


def test_invalid_http_is_a_problem_after_the_pending_answers(
    shared_server: HttpServer, path: str
) -> None:
    """The requests accepted before it are answered first."""
    with connect_raw(shared_server) as to:
        to.send(request(path), request(path), b"\x16\x03\x01 nonsense\r\n\r\n")
        assert [to.answer()[:2] for _ in range(2)] == [(202, {"number": n}) for n in (1, 2)]
        status, body, stays = to.answer()
        assert (status, body["type"], stays) == (400, "urn:problem-type:instachat:not-http", False)
        assert to.is_closed
    with connect_raw(shared_server) as to:
        assert to.send(b"nonsense\r\n\r\n").answer()[0] == 400
        rid = to.headers["x-request-id"]
        assert to.headers["x-content-type-options"] == "nosniff"
        assert to.is_closed
    wait_until(lambda: rid in {line["request_id"] for line in shared_server.requests})


@pytest.mark.parametrize("before", [0, 1])
def test_invalid_chunks_are_refused_at_once(
    shared_server: HttpServer, path: str, before: int
) -> None:
    """Also behind another request, which is answered first."""
    spoilt = request(
        path, b"Content-Type: application/json", b"Transfer-Encoding: chunked", body=b""
    )
    with connect_raw(shared_server) as to:
        to.send(request(path) * before, spoilt, b"x\r\n")
        for _ in range(before):
            assert to.answer()[0] == 202
        assert to.answer()[0] == 400
        assert to.is_closed


def test_two_lengths_or_a_length_and_chunks_are_refused(
    shared_server: HttpServer, path: str
) -> None:
    """A proxy in front of the server might interpret them differently."""
    kind, length = b"Content-Type: application/json", b"Content-Length: %d" % len(BODY)
    for headers in (
        (kind, length, b"Content-Length: 1"),
        (kind, length, b"Transfer-Encoding: chunked"),
        (kind, b"Content-Length: +5"),
    ):
        with connect_raw(shared_server) as to:
            assert to.send(request(path, *headers)).answer()[0] == 400
            assert to.is_closed


def test_headers_and_trailers_have_a_limit(shared_server: HttpServer, path: str) -> None:
    """A long header, many short ones, or trailers: 431, and the server closes the connection."""
    chunked = request(
        path, b"Content-Type: application/json", b"Transfer-Encoding: chunked", body=b""
    )
    for start, more in (
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y" * 1_000),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n" * 200),
        (chunked + b"1\r\n{\r\n0\r\n", b"X: y\r\n" * 200),
    ):
        with connect_raw(shared_server) as to:
            to.send(start)
            with suppress(OSError):  # the server has closed the connection
                for _ in range(1_000):
                    to.send(more)
                    time.sleep(0.0005)
            with suppress(ConnectionResetError):  # before the answer could be read
                assert to.answer()[0] == 431
            assert to.is_closed


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST %s HTTP/1.1", 400),
        (b"POST %s HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        (b"POST %s HTTP/1.1\r\nHost: a\r\nhost: b", 400),
        (b"POST %s HTTP/1.0\r\nHost: a\r\nHost: a", 400),
        (b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
        (
            b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            501,
        ),
        (
            b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        (b"POST %s HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
    ],
)
@pytest.mark.parametrize("query", [b"", b"?"])
def test_a_head_that_a_proxy_may_read_otherwise_is_refused(
    shared_server: HttpServer, path: str, head: bytes, status: int, query: bytes
) -> None:
    """The requests before it are answered; the connection closes. On the fast path and on the route."""
    kind = b"\r\nContent-Type: application/json"
    is_chunked = b"chunked" in head
    framing = b"" if is_chunked else b"\r\nContent-Length: %d" % len(BODY)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) if is_chunked else BODY
    with connect_raw(shared_server) as to:
        to.send(request(path), head % (path.encode() + query), kind, framing, b"\r\n\r\n", body)
        assert to.answer()[:2] == (202, {"number": 1})
        answer, problem, stays = to.answer()
        assert (answer, problem["status"], stays) == (status, status, False)
        assert to.is_closed
    with connect_raw(shared_server) as to:
        assert to.send(request(path)).answer()[1] == {"number": 2}


def test_http_1_0_needs_no_host_and_gets_no_interim_response(
    shared_server: HttpServer, path: str
) -> None:
    """Such a client would take `100 Continue` for the response."""
    old = request(
        path,
        b"Expect: 100-continue",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(BODY),
    ).replace(b"HTTP/1.1\r\nHost: a", b"HTTP/1.0")
    with connect_raw(shared_server) as to:
        to.send(old)
        assert to.socket.recv(12) == b"HTTP/1.1 202"
    with connect_raw(shared_server) as to:
        to.send(request(path, b"Expect: 100-continue", *USUAL)[: -len(BODY)])
        assert to.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert to.send(BODY).answer()[:2] == (202, {"number": 2})


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("query", ["", "?", "?wait=stored"])
def test_a_client_that_closes_its_half_gets_its_answers(
    shared_server: HttpServer, path: str, before: int, query: str
) -> None:
    """To all that it has sent completely; then the connection closes."""
    with connect_raw(shared_server) as to:
        to.send(request(path) * before, request(f"{path}{query}"))
        to.socket.shutdown(socket.SHUT_WR)
        for number in range(1, before + 2):
            status, body, _ = to.answer()
            assert (status in (201, 202), body) == (True, {"number": number})
        assert to.is_closed


def test_a_client_that_closes_its_half_within_a_request_is_disconnected(
    shared_server: HttpServer, path: str
) -> None:
    """After the answers to those before it; nothing is created of the incomplete one."""
    whole = request(path)
    for cut in (20, len(whole) - 5):
        for before in (0, 1, 2):
            with connect_raw(shared_server) as to:
                to.send(whole * before, whole[:cut])
                to.socket.shutdown(socket.SHUT_WR)
                assert [to.answer()[0] for _ in range(before)] == [202] * before
                assert to.is_closed
    with connect_raw(shared_server) as to:
        assert to.send(whole).answer()[1] == {"number": 7}


def test_an_incomplete_request_creates_nothing(
    shared_server: HttpServer, app: ApplicationClient
) -> None:
    """After a disconnect within a request, the next message gets the next number."""
    path = f"{app.chat()}/messages"
    for cut in (20, len(request(path)) - 5):
        with connect_raw(shared_server) as to:
            to.send(request(path)[:cut])
            time.sleep(0.05)
    with connect_raw(shared_server) as to:
        assert to.send(request(path)).answer()[1] == {"number": 1}


def test_an_offered_upgrade_is_declined(shared_server: HttpServer, path: str) -> None:
    """The request is answered like any other, its body included. Some clients offer one at first."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    usual = (b"Content-Type: application/json", b"Content-Length: %d" % len(BODY))
    with connect_raw(shared_server) as to:
        to.send(request(path), request(path, *offer, *usual), request(path))
        assert [to.answer()[:2] for _ in range(3)] == [(202, {"number": n}) for n in (1, 2, 3)]
        whole = request(path, *offer, *usual)
        to.send(whole[:-5])
        time.sleep(0.05)
        assert to.send(whole[-5:]).answer() == (202, {"number": 4}, True)
        to.send(request(path, b"Connection: Upgrade, close", b"Upgrade: x", *usual))
        assert to.answer() == (202, {"number": 5}, False)
    with connect_raw(shared_server) as to:
        to.send(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert to.answer()[0] == 400
        assert to.is_closed


def test_very_many_pipelined_requests_use_little_memory(
    shared_server: HttpServer, path: str
) -> None:
    """However many are sent ahead: each is answered in order, and the server's memory does not grow."""
    (process, *_) = server_processes(shared_server)
    before = process.memory_info().rss
    with connect_raw(shared_server) as to:
        for turn in range(4):
            sending = threading.Thread(target=to.send, args=(request(path) * 1_000,))
            sending.start()
            for number in range(1_000):
                assert to.answer()[:2] == (202, {"number": 1_000 * turn + number + 1})
            sending.join()
    idle = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000
    with connect_raw(shared_server) as to:
        to.socket.settimeout(0.2)
        for _ in range(10):
            with suppress(TimeoutError):
                to.send(idle)  # without reading any response
        assert shared_server("GET", "/healthz").status == 200
    assert process.memory_info().rss - before < 64 * 1024 * 1024


def test_a_large_body_in_pieces_is_answered_without_delay(
    shared_server: HttpServer, path: str
) -> None:
    """A body above the limit of the fast path, which takes the ordinary route.

    If the connection fell back only at the next `check_timeouts`, each request but the first would take
    TIMEOUT_CHECK_SECONDS. A busy machine may delay some, so requests are sent until one is quick.
    """
    body = json.dumps({"message": {"text": "ä" * 10_000}}).encode() + b" " * 60_000
    sent = request(path, body=body)

    def seconds_taken(number: int) -> float:
        began = time.monotonic()
        for start in range(0, len(sent), 20_000):
            to.send(sent[start : start + 20_000])
            time.sleep(0.01)
        assert to.answer()[:2] == (202, {"number": number})
        return time.monotonic() - began

    with connect_raw(shared_server) as to:
        seconds_taken(1)
        assert any(seconds_taken(number) < 0.7 for number in range(2, 32))


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":"\xff","message":{"text":"a"}}',
        b'{"\xff":1,"message":{"text":"a"}}',
        b'{"x":1,"message":{"text":"a","y":[]}}',
        b'{"message":{"text":1},"message":{"text":"a"}}',
    ],
)
def test_the_fast_path_and_the_route_treat_a_strange_body_alike(
    shared_server: HttpServer, path: str, body: bytes
) -> None:
    """Both return the same status, whatever the unknown members contain."""
    ways = [
        shared_server("POST", f"{path}{q}", raw=body, content_type="application/json")
        for q in ("", "?")
    ]
    assert len({answer.status for answer in ways}) == 1


def test_many_pipelined_upgrades_are_declined(shared_server: HttpServer) -> None:
    """Offers of an upgrade, sent at once."""
    asked = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with connect_raw(shared_server) as to:
        to.send(asked * 2_000)
        assert {to.answer("GET")[0] for _ in range(2_000)} == {200}


def test_slow_clients_are_disconnected(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a request, with half a head, or without reading; other clients stay connected."""
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr(connection, "HEADERS_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(connection, "WRITE_TIMEOUT_SECONDS", 1.0)
    with serve_in_process(backend.settings) as server, ExitStack() as stack:
        idle, slow, deaf, fine = (stack.enter_context(connect_raw(server)) for _ in range(4))
        slow.send(b"GET / HTTP/1.1\r\nX: ")
        deaf.send(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        assert slow.answer("GET")[0] == 408
        assert slow.is_closed
        while not gone(idle):
            fine.send(request("/healthz", b"A: b", method=b"GET", body=b""))
            assert fine.answer("GET")[0] == 200
            time.sleep(0.1)
        wait_until(lambda: _is_broken(deaf))


def gone(client: RawClient) -> bool:
    """Whether the server has closed the connection by now."""
    return bool(select.select([client.socket], [], [], 0)[0]) and client.is_closed


def _is_broken(client: RawClient) -> bool:
    try:
        client.send(b"GET / HTTP/1.1\r\n")
    except OSError:
        return True
    return False
