"""Shares: what one application asks for leaves threads and places to the others."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from backend.api import service
from backend.api.thread_shares import ThreadShares
from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import chats
from tests.http.test_connection import serve_in_process
from tests.http.test_engine_failures import problem_of
from tests.http.test_fast_searches import send
from tests.support.http_server import HttpResponse
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("http")
EDIT = b'{"message": {"text": "edited"}}'


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose calls were given to threads, or wait for one."""
    owners: list[str] = []
    submit = ThreadShares.submit

    def record(self: ThreadShares, owner: str, call: Callable[[], Any]) -> Future[Any]:
        future = submit(self, owner, call)
        owners.append(owner)
        return future

    monkeypatch.setattr(ThreadShares, "submit", record)
    return owners


def two_applications(core: Backend) -> list[str]:
    """In two shards; each has five chats, and a message in the first one."""
    tokens: dict[int, str] = {}
    while len(tokens) < 2:
        token = core.catalog.applications.create("one of two").token
        tokens.setdefault(core.counters.shard(token), token)
    for token in tokens.values():
        core.acceptor.accept(AcceptRequest.chats(token, 5))
        core.acceptor.accept(AcceptRequest.messages(token, 1, ["as it was"]))
    core.drainer.drain_all()
    return list(tokens.values())


@contextmanager
def locked_chats(core: Backend, token: str) -> Iterator[None]:
    """Nobody can change the chats of an application, or decide their deletion."""
    with core.database.begin() as tx:
        for id_ in chats.list_chat_ids(tx, token):
            chats.lock_chat(tx, id_)
        message = "SELECT * FROM message WHERE chat_id = ANY(%s) FOR UPDATE"
        tx.exec_driver_sql(message, (chats.list_chat_ids(tx, token),))
        yield


@pytest.mark.parametrize(
    ("threads", "method", "path", "body"),
    [
        ("CALL_THREADS", "PATCH", "chats/1/messages/1", EDIT),
        ("DRAIN_WAIT_THREADS", "DELETE", "chats/{}", None),
    ],
    ids=["edits", "deletions"],
)
def test_an_applications_calls_leave_threads_to_others(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    submitted: list[str],
    threads: str,
    method: str,
    path: str,
    body: bytes | None,
) -> None:
    """However long they take: one application has no more than half of the threads."""
    monkeypatch.setattr(service, threads, 4)
    with (
        open_backend(settings) as core,
        serve_in_process(settings) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        greedy, other = two_applications(core)

        def change(token: str, chat: int) -> HttpResponse:
            below = path.format(chat)
            return send(server.port, method, f"/api/v1/applications/{token}/{below}", body)

        with locked_chats(core, greedy):
            waiting = [clients.submit(change, greedy, chat) for chat in range(2, 6)]
            wait_until(lambda: submitted.count(greedy) == 4)
            assert change(other, 2).status in (200, 204)
        for each in waiting:
            each.result()


def test_an_applications_calls_leave_places_to_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, submitted: list[str]
) -> None:
    """It is refused as if the server had too many, until one of its calls has ended."""
    monkeypatch.setattr(service, "MAX_CALLS", 4)
    monkeypatch.setattr(service, "MAX_CALLS_OF_ONE", 2)
    monkeypatch.setattr(service, "CHANGE_CALL_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    with (
        open_backend(settings) as core,
        serve_in_process(settings) as server,
        ThreadPoolExecutor(2) as clients,
    ):
        greedy, other = two_applications(core)

        def edit(token: str) -> HttpResponse:
            path = f"/api/v1/applications/{token}/chats/1/messages/1"
            return send(server.port, "PATCH", path, EDIT)

        with locked_chats(core, greedy):
            waiting = [clients.submit(edit, greedy) for _ in range(2)]
            wait_until(lambda: submitted.count(greedy) == 2)
            assert problem_of(edit(greedy)) == (503, "busy")
            assert edit(other).status == 200
        assert [each.result().status for each in waiting] == [200, 200]
        assert edit(greedy).status == 200
