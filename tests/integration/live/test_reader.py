"""The live reader: what becomes of each number, and which gaps it waits for."""

import pytest
import redis

from backend.bootstrap import Backend
from backend.domain.errors import NotFound
from backend.domain.model import EntryId, Parent
from backend.ingest.requests import AcceptRequest
from backend.live.events import (
    Created,
    Decided,
    Deleted,
    Edited,
    Ended,
    EndReason,
    Gone,
    GoneReason,
)
from backend.live.reader import MAX_SINGLE_GONE, Gap, News, Position
from backend.storage.postgres import locks
from tests.support.faults.shortcuts import rejecting_texts, scalar, send


def read(
    backend: Backend,
    token: str,
    after: int = 0,
    changed: frozenset[int] = frozenset(),
    gap: Gap | None = None,
) -> News:
    """What is new in chat 1 after a number."""
    start = backend.live_reader.start((token, 1))
    assert start is not None
    key = (token, 1)
    return backend.live_reader.read({key: Position(start.chat_id, after, changed, gap)})[key]


def told(events: list[Decided]) -> list[object]:
    """The texts of messages, and the gaps."""
    return [event.message.text if isinstance(event, Created) else tuple(event) for event in events]


def test_each_number_comes_in_order_with_what_became_of_it(backend: Backend, chat: str) -> None:
    """Stored, removed and rejected ones."""
    with rejecting_texts(backend.database):
        send(backend, chat, "one", "two", "refused", "four")
        backend.drainer.drain_all()
    backend.catalog.messages.delete(chat, 1, 2)
    news = read(backend, chat)
    assert told(news.decided) == ["one", (2, 2, "removed"), (3, 3, "rejected"), "four"]
    assert (news.more, news.undecided) == (False, False)
    assert told(read(backend, chat, after=3).decided) == ["four"]
    assert read(backend, chat, after=4).decided == []


def test_changed_messages_come_as_they_are_now(backend: Backend, chat: str) -> None:
    """Edited and deleted ones; one without a row is passed over."""
    send(backend, chat, "one", "two")
    backend.drainer.drain_all()
    edited = backend.catalog.messages.edit(chat, 1, 1, {"text": "another"})
    backend.catalog.messages.delete(chat, 1, 2)
    assert read(backend, chat, 2, frozenset({1, 2, 9})).changes == [
        (Edited(edited), Created(edited)),
        (Deleted(2), Gone(2, 2, GoneReason.REMOVED)),
    ]


def test_a_gap_is_passed_once_nothing_can_fill_it(backend: Backend, chat: str) -> None:
    """Not while the log holds anything, nor while a direct write has reserved numbers."""
    _insert(backend, chat, 1, 4)
    send(backend, chat, "five")
    waiting = read(backend, chat)
    assert told(waiting.decided) == ["row 1"]
    assert waiting.undecided
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        locks.reserve_numbers(tx, backend.counters.shard(chat))
        assert read(backend, chat).undecided
    decided = read(backend, chat)
    assert not decided.undecided
    assert told(decided.decided) == ["row 1", (2, 2, "lost"), (3, 3, "lost"), "row 4", "five"]


def test_a_gap_is_passed_while_the_log_is_never_empty(backend: Backend, chat: str) -> None:
    """What is accepted after the gap was first seen does not concern it."""
    _insert(backend, chat, 1, 4)
    send(backend, chat, "five")
    first = read(backend, chat)
    assert first.undecided
    assert first.gap
    assert first.gap.after == 1
    backend.drainer.drain_all()
    send(backend, chat, "six")
    assert read(backend, chat, 1).undecided  # a first look waits
    decided = read(backend, chat, 1, gap=first.gap)
    assert told(decided.decided) == [(2, 2, "lost"), (3, 3, "lost"), "row 4", "five"]


def test_a_change_of_a_later_number_is_told_with_its_row(backend: Backend, chat: str) -> None:
    """Its edit is not told before the message itself."""
    send(backend, chat, "one", "two")
    backend.drainer.drain_all()
    backend.catalog.messages.edit(chat, 1, 2, {"text": "another"})
    news = read(backend, chat, 1, frozenset({2}))
    assert news.changes == []
    assert told(news.decided) == ["another"]


def test_a_long_gap_is_one_event(backend: Backend, chat: str) -> None:
    """An import may skip any number of numbers."""
    last = 2 + MAX_SINGLE_GONE
    _insert(backend, chat, 1, last + 1)
    assert told(read(backend, chat).decided) == ["row 1", (2, last, "lost"), f"row {last + 1}"]


def test_many_chats_are_read_at_once(backend: Backend, application: str) -> None:
    """Each from its own place; chats without a row yet, and removed ones, are told apart."""
    backend.acceptor.accept(AcceptRequest.chats(application, 3))
    for number in (1, 2, 3):
        send(backend, application, "one", "two", chat=number)
    backend.drainer.drain_all()
    backend.catalog.chats.delete(application, 3, cascade=True)
    backend.acceptor.accept(AcceptRequest.chats(application))
    found = backend.live_reader.read(
        {
            (application, 1): Position(None, 0),
            (application, 2): Position(None, 1),
            (application, 3): Position(None, 0),
            (application, 4): Position(None, 0),
        }
    )
    assert [told(news.decided) for news in found.values()] == [["one", "two"], ["two"], [], []]
    assert [news.ended for news in found.values()] == [None, None, Ended(EndReason.DELETED), None]
    assert [news.chat_id is None for news in found.values()] == [False, False, False, True]


def test_a_chat_without_a_row_is_waited_for_until_it_is_decided(
    backend: Backend, application: str
) -> None:
    """Not while the log holds its creation, nor while a direct write has reserved numbers."""
    key = (application, 1)
    backend.acceptor.accept(AcceptRequest.chats(application))
    waiting = backend.live_reader.read({key: Position(None, 0)})[key]
    assert waiting.undecided
    assert (waiting.chat_id, waiting.ended) == (None, None)
    backend.drainer.drain_all()
    stored = backend.live_reader.read({key: Position(None, 0, gap=waiting.gap)})[key]
    assert stored.chat_id
    assert (stored.undecided, stored.ended) == (False, None)


def test_a_chat_that_is_stored_between_two_statements_is_read_again(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row appears after it was found missing."""
    key = (application, 1)
    backend.acceptor.accept(AcceptRequest.chats(application))
    read_log_end = backend.counters.read_log_end

    def store_then_read(shard: int) -> EntryId:
        backend.drainer.drain_all()
        return read_log_end(shard)

    monkeypatch.setattr(backend.counters, "read_log_end", store_then_read)
    found = backend.live_reader.read({key: Position(None, 0)})[key]
    assert found.chat_id
    assert (found.more, found.ended) == (True, None)


def test_a_chat_whose_creation_was_lost_ends(backend: Backend, application: str) -> None:
    """Once the new epoch has decided it, and no direct write has reserved numbers."""
    key = (application, 1)
    backend.acceptor.accept(AcceptRequest.chats(application))
    assert isinstance(backend.log.redis, redis.Redis)
    backend.log.redis.flushall()
    waiting = backend.live_reader.read({key: Position(None, 0)})[key]
    assert (waiting.undecided, waiting.ended) == (True, None)
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        locks.reserve_numbers(tx, backend.counters.shard(application))
        assert backend.live_reader.read({key: Position(None, 0)})[key].undecided
    decided = backend.live_reader.read({key: Position(None, 0)})[key]
    assert decided.ended == Ended(EndReason.LOST)
    with pytest.raises(NotFound):
        backend.catalog.chats.get(application, 1)


def test_a_chat_without_a_row_ends_with_its_application(backend: Backend, application: str) -> None:
    """Its creation was lost, or its row is deleted already."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    backend.catalog.applications.delete(application, cascade=True)
    backend.cascade_deleter.delete_all()
    key = (application, 1)
    news = backend.live_reader.read({key: Position(None, 0)})[key]
    assert news.ended == Ended(EndReason.DELETED)


def test_a_page_is_bounded(backend: Backend, chat: str) -> None:
    """And says that more follows."""
    _insert(backend, chat, *range(1, 300))
    news = read(backend, chat)
    assert news.more
    assert len(news.decided) < 299
    last = news.decided[-1].number
    assert told(read(backend, chat, last).decided)[0] == f"row {last + 1}"


def _insert(backend: Backend, token: str, *numbers: int) -> None:
    """Store rows with these numbers, and have the chat's counter above them."""
    for number in numbers:
        scalar(
            backend,
            "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)"
            " SELECT c.id, :number, 1, now(), now(), 'row ' || :number, 'row' FROM chat c"
            " JOIN application a ON a.id = c.application_id WHERE a.token = :token RETURNING 1",
            token=token,
            number=number,
        )
    shard = backend.counters.shard(token)
    _, end = backend.log.read_issued(shard, [])
    backend.log.raise_all(shard, end.epoch, {Parent(token, 1): max(numbers)}, create=True)
