"""Retention: what a policy deletes, in passes that any process continues."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from backend.bootstrap import Backend
from backend.catalog import bulk_deletion, retention
from backend.domain.application_settings import MAX_RETENTION_SECONDS
from backend.domain.errors import Invalid, NotFound
from backend.ingest.requests import AcceptRequest

DAY = 86_400


@pytest.fixture
def old(backend: Backend, application: str) -> str:
    """An application with two chats: all messages are 100 days old, but for the last one of each."""
    store(backend, application, chats=2, messages=25)
    with backend.database.begin() as tx:
        age = "now() - interval '100 days'"
        tx.exec_driver_sql(f"UPDATE message SET created_at = {age} WHERE number < 25")
        tx.exec_driver_sql(f"UPDATE chat SET created_at = {age}")
    return application


@pytest.fixture(autouse=True)
def small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a few messages take several, and two chats several pages."""
    monkeypatch.setattr(bulk_deletion, "MAX_MESSAGES", 10)
    monkeypatch.setattr(retention, "CHATS_PAGE", 1)


def store(backend: Backend, token: str, *, chats: int, messages: int) -> None:
    """Store chats with messages."""
    backend.acceptor.accept(AcceptRequest.chats(token, chats))
    for chat in range(1, chats + 1):
        backend.acceptor.accept(AcceptRequest.messages(token, chat, ["secret"] * messages))
    backend.drainer.drain_all()


def counts(backend: Backend, token: str) -> list[int]:
    """The live counts of its chats."""
    return [chat.messages_count for chat in backend.catalog.chats.list(token)]


def make_due(backend: Backend) -> None:
    """Have the next pass begin now."""
    with backend.database.begin() as tx:
        tx.exec_driver_sql("UPDATE retention SET passed_at = now() - interval '2 hours'")


def test_a_policy_deletes_what_is_older_and_nothing_else(backend: Backend, old: str) -> None:
    """Counts fall once; messages of other applications stay; another age is applied at once."""
    other = backend.catalog.applications.create("other").token
    store(backend, other, chats=1, messages=3)
    with backend.database.begin() as tx:
        tx.exec_driver_sql(
            "UPDATE message SET created_at = now() - interval '1 day' WHERE number = 25"
        )
    backend.retention.set(old, 90 * DAY)
    assert backend.retention.get(old) == 90 * DAY
    assert backend.retention.apply() == 48
    assert counts(backend, old) == [1, 1]
    with backend.database.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM message WHERE text <> ''").scalar()
    assert left == 5
    assert backend.retention.apply() == 0
    make_due(backend)
    assert backend.retention.apply() == 0
    backend.retention.set(old, DAY // 2)
    assert backend.retention.apply() == 2
    backend.retention.set(old, None)
    assert backend.retention.get(old) is None
    store(backend, old, chats=1, messages=1)
    make_due(backend)
    assert backend.retention.apply() == 0
    assert counts(backend, other) == [3]
    assert not list(backend.reconciler.begin().findings())


def test_a_pass_is_continued_where_it_was_left(backend: Backend, old: str) -> None:
    """It ends between two transactions when it may not go on, or its time is over."""
    backend.retention.set(old, 90 * DAY)
    calls = count()
    assert backend.retention.apply(may_continue=lambda: next(calls) < 2) == 10 * 2
    assert backend.retention.apply(seconds=0) == 4
    assert counts(backend, old) == [1, 25]
    deleted = [backend.retention.apply(seconds=0) for _ in range(6)]
    assert [some for some in deleted if some] == [10, 10, 4]
    assert counts(backend, old) == [1, 1]


def test_several_workers_share_a_pass(backend: Backend, old: str) -> None:
    """One has it at a time, and no message is counted twice."""
    backend.retention.set(old, 90 * DAY)
    with ThreadPoolExecutor(4) as threads:
        done = sum(
            threads.map(lambda _: sum(backend.retention.apply(0) for _ in range(10)), range(4))
        )
    assert done + backend.retention.apply() == 48
    assert counts(backend, old) == [1, 1]


def test_what_can_have_no_policy_is_refused(backend: Backend, application: str) -> None:
    """An unknown or removed application, and an age beyond all times."""
    for seconds in (0, MAX_RETENTION_SECONDS + 1):
        with pytest.raises(Invalid):
            backend.retention.set(application, seconds)
    backend.retention.set(application, MAX_RETENTION_SECONDS)
    assert backend.retention.apply() == 0
    backend.catalog.applications.delete(application)
    assert backend.retention.apply() == 0
    for token in (application, "x" * 32):
        with pytest.raises(NotFound):
            backend.retention.set(token, DAY)
