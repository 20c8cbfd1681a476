"""Large batches: refused before they are read, decoded beside others, limited in memory; large pages."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from backend.api import batch_body
from backend.api.batch_body import MAX_BATCH_BODY_BYTES, BatchRequest
from backend.api.parameters import MAX_PAGE_SIZE
from backend.api.request_body import MAX_BODY_BYTES, BodyMemory
from backend.bootstrap import Backend
from backend.domain.model import MAX_TEXT
from backend.ingest import requests
from backend.ingest.requests import AcceptRequest
from tests.http.test_connection import connect_raw, request, serve_in_process
from tests.http.test_fast_searches import send
from tests.support.http_server import ApplicationClient, HttpServer
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")
KIND = b"Content-Type: application/json"
LARGE = b'{"messages": [%s]}' % b",".join([b'{"text": "%s"}' % (b"a" * 1_000)] * 300)


@pytest.fixture(scope="module")
def unknown_paths(shared_server: HttpServer) -> list[str]:
    """Of chats that do not exist, or can't."""
    token = ApplicationClient(shared_server).token
    chats = [("A" * 32, "1"), ("short", "1"), (token, "1"), (token, "0"), (token, "9" * 400)]
    return [f"/api/v1/applications/{name}/chats/{chat}/messages/batch" for name, chat in chats]


def test_a_large_batch_for_an_unknown_chat_is_refused_before_it_is_sent(
    shared_server: HttpServer, unknown_paths: list[str]
) -> None:
    """By its announced length, or once as much has arrived as another request may have."""
    length = b"Content-Length: %d" % MAX_BATCH_BODY_BYTES
    for path in unknown_paths:
        with connect_raw(shared_server) as to:
            to.send(request(path, KIND, length, body=b""))
            assert to.answer()[0] == 404
        with connect_raw(shared_server) as to:
            to.send(request(path, KIND, b"Transfer-Encoding: chunked", body=b""))
            to.send(b"%x\r\n%s" % (MAX_BATCH_BODY_BYTES, b" " * (MAX_BODY_BYTES + 1)))
            assert to.answer()[0] == 404


@pytest.mark.parametrize("unit", [b"{},", b'{"text":"a"},', b'{"text":"a","x":[[],[],{}]},'])
def test_the_worst_batches_are_refused_beside_other_requests(
    app: ApplicationClient, unit: bytes
) -> None:
    """Of millions of objects: 422, and nothing is created."""
    path = f"{app.chat()}/messages"
    body = b'{"messages":[' + unit * (40_000_000 // len(unit)) + b"{}]}"
    refused = app.server("POST", f"{path}/batch", raw=body, content_type="application/json")
    assert (refused.status, refused.json["type"].rpartition(":")[2]) == (422, "invalid")
    made = app.server("POST", path, {"message": {"text": "a"}})
    assert (made.status, made.json) == (202, {"number": 1})


@pytest.mark.parametrize(
    ("module", "function"), [(batch_body, "decode_batch"), (requests, "_hash_body")]
)
def test_a_large_batch_is_decoded_and_hashed_beside_other_requests(
    backend: Backend,
    chat: str,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    function: str,
) -> None:
    """Others are answered meanwhile. It is hashed because it has an idempotency key."""
    decoding, answered = threading.Event(), threading.Event()

    def work_slowly(body: Any) -> Any:
        decoding.set()
        assert answered.wait(PATIENCE_SECONDS)
        return work(body)

    work = getattr(module, function)
    monkeypatch.setattr(module, function, work_slowly)
    path = f"/api/v1/applications/{chat}/chats/1/messages/batch"
    with serve_in_process(backend.settings) as server, ThreadPoolExecutor(1) as clients:
        creating = clients.submit(send, server.port, "POST", path, LARGE, idempotency_key="1")
        assert decoding.wait(PATIENCE_SECONDS)
        assert send(server.port, "GET", "/healthz").status == 200
        answered.set()
        created = creating.result()
    assert (created.status, created.json) == (202, {"first": 1, "last": 300})


def test_batches_that_take_too_much_memory_together_are_refused(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, while another one is processed; its memory is free afterwards.

    An application has half of the memory, and leaves the rest to others.
    """
    of_one = BatchRequest.copies * len(LARGE) + 1
    monkeypatch.setattr(BatchRequest, "memory", BodyMemory(2 * of_one))
    path = f"/api/v1/applications/{chat}/chats/1/messages/batch"
    other = backend.catalog.applications.create("other").token
    backend.acceptor.accept(AcceptRequest.chats(other))
    with serve_in_process(backend.settings) as server, connect_raw(server) as to:
        to.send(request(path, KIND, b"Content-Length: %d" % len(LARGE), body=LARGE[:-1]))
        arrived = BatchRequest.copies * (len(LARGE) - 1)
        wait_until(lambda: BatchRequest.memory.held_bytes == arrived)
        refused = send(server.port, "POST", path, LARGE)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        of_other = send(server.port, "POST", path.replace(chat, other), LARGE)
        assert of_other.json == {"first": 1, "last": 300}
        assert to.send(LARGE[-1:]).answer()[:2] == (202, {"first": 1, "last": 300})
        assert send(server.port, "POST", path, LARGE).json == {"first": 301, "last": 600}
        assert BatchRequest.memory.held_bytes == 0


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """The token of an application with a chat."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    return application


def test_the_longest_page_has_a_limit(backend: Backend, chat: str) -> None:
    """Its texts are of characters that JSON can only escape."""
    backend.acceptor.accept(AcceptRequest.messages(chat, 1, ["\x01" * MAX_TEXT] * MAX_PAGE_SIZE))
    backend.drainer.drain_all()
    path = f"/api/v1/applications/{chat}/chats/1/messages?limit={MAX_PAGE_SIZE}"
    with serve_in_process(backend.settings) as server:
        page = send(server.port, "GET", path)
    assert len(page.json["items"]) == MAX_PAGE_SIZE
    assert 12_000_000 < len(page.body) < 12_100_000
