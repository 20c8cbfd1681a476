"""Draining: exactly once and in order; what can't be stored becomes a dead letter."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.catalog import applications
from backend.catalog.waiting import PendingNumber
from backend.domain import events
from backend.domain.errors import (
    EngineDown,
    Gone,
    HasChildren,
    InstaChatError,
    LogFull,
    NewerLogFormat,
    NotFound,
)
from backend.domain.events import pack_messages
from backend.domain.model import Accepted, EntryId, MessageRange, Parent, new_token
from backend.ingest.batch import BatchLimits
from backend.ingest.drain import Drainer, transaction_name
from backend.ingest.epochs import Epochs
from backend.ingest.kept_log import KeptLog
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import locks, message_blocks, shards
from backend.storage.redis.types import Creation, LogPage
from backend.worker.queue import QUEUE_KEY, JobHandlers
from tests.conftest import Engines
from tests.support.faults.shortcuts import send
from tests.support.pgbouncer import need_sessions
from tests.support.redis_copy import bring_back, copy_redis
from tests.support.redis_values import plant_counter, plant_epoch
from tests.support.waiting import PATIENCE_SECONDS, wait_until


def query(backend: Backend, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """Rows, read from SQL directly."""
    with backend.database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement), values)]


def send_poison(backend: Backend, token: str, *texts: str) -> None:
    """Accept invalid events, as a faulty program might."""
    shard = backend.counters.shard(token)
    payloads = pack_messages(token, 1, texts)
    outcome = backend.log.accept(
        shard, [Creation("messages", Parent(token, 1), payloads)], backend_known()
    )
    assert outcome.answers


def backend_known() -> EntryId:
    return EntryId(0, 0)


def texts(backend: Backend, token: str, chat: int = 1) -> dict[int, str]:
    return {m.number: m.text for m in backend.catalog.messages.list(token, chat)}


@pytest.mark.parametrize("which", ["engines", "oldest_engines"])
def test_every_operation_works_on_the_newest_and_the_oldest_engines(
    which: str, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL 18 with Valkey 9, and 15 with Redis 7: accept, drain, read, search, edit and delete."""
    engines: Engines = request.getfixturevalue(which)
    with open_backend(engines.settings()) as backend:
        token = backend.catalog.applications.create("both").token
        assert backend.acceptor.accept(AcceptRequest.chats(token, 2)).last == 2
        send(backend, token, "Hello", "مَرحبا", "tab\t line\n back\\slash \r end")
        backend.drainer.drain_all()
        assert texts(backend, token)[3] == "tab\t line\n back\\slash \r end"
        assert [m.message.number for m in backend.catalog.messages.search(token, 1, "مرحبا")] == [2]
        assert backend.catalog.messages.edit(token, 1, 1, {"text": "Bye"}).text == "Bye"
        backend.catalog.messages.delete(token, 1, 2)
        backend.catalog.chats.delete(token, 2)
        assert backend.catalog.applications.get(token).chats_count == 1
        backend.log.redis.flushall()
        assert send(backend, token, "after a wipe") == 4


def test_a_text_that_postgresql_rejects_becomes_a_dead_letter(backend: Backend, chat: str) -> None:
    """The other messages of its batch are stored. The text has a NUL, which every check has missed."""
    send_poison(backend, chat, "good", "bad\x00text", "good again")
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "good", 3: "good again"}
    letters = query(backend, "SELECT key, reason, chat, number FROM dead_letter")
    assert [(chat_, number) for _, _, chat_, number in letters] == [(1, 2)]
    assert "NUL" in letters[0][1]
    with pytest.raises(Gone):
        backend.catalog.messages.get(chat, 1, 2)
    issued = backend.catalog.chats.get(chat, 1)
    assert getattr(issued, "messages_count", None) == 2


def test_a_text_with_a_lone_surrogate_becomes_a_dead_letter(backend: Backend, chat: str) -> None:
    """It cannot be encoded as UTF-8."""
    shard = backend.counters.shard(chat)
    payload = b'["m","%s",1,["\\ud800"]]' % chat.encode()
    backend.log.accept(
        shard, [Creation("messages", Parent(chat, 1), [(1, payload)])], backend_known()
    )
    send(backend, chat, "next")
    backend.drainer.drain_all()
    assert texts(backend, chat) == {2: "next"}
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(1,)]


@pytest.mark.parametrize(
    "field", [b"", b"1", b"1 2 {", b'1 2 ["x",1]', b"1 2 " + b"[" * 100_000, b"\xff\xfe 1 2"]
)
def test_an_entry_that_is_not_an_event_becomes_a_dead_letter(
    backend: Backend, chat: str, field: bytes
) -> None:
    """Another program has appended it to the stream; the drain continues behind it."""
    append(backend, chat, field)
    send(backend, chat, "next")
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "next"}
    assert query(backend, "SELECT event FROM dead_letter")[0][0].tobytes() == field


def test_an_event_of_a_later_release_stays_in_the_log_for_a_program_of_that_release(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that is behind it in its shard. An older program stores the events of the other shards."""
    other = next(
        token
        for token in (backend.catalog.applications.create("test").token for _ in range(100))
        if backend.counters.shard(token) > backend.counters.shard(chat)
    )
    backend.acceptor.accept(AcceptRequest.chats(other))
    later = events.LOG_FORMAT + 1
    append(backend, chat, f'2 1790000000000000 v{later} ["c","{chat}",1]'.encode())
    send(backend, chat, "next")
    with pytest.raises(NewerLogFormat, match=f"format {later}"):
        backend.drainer.drain_all()
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]
    assert backend.catalog.chats.get(other, 1).number == 1
    assert texts(backend, chat) == {}
    monkeypatch.setattr(events, "LOG_FORMAT", later)
    backend.drainer.drain_all()
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]
    assert query(backend, "SELECT count(*) FROM chat WHERE number = 2") == [(1,)]
    assert texts(backend, chat) == {1: "next"}


def append(backend: Backend, token: str, field: bytes) -> None:
    """Append an entry to the log of an application's shard, without the accept script."""
    shard = backend.counters.shard(token)
    end = backend.log.read_issued(shard, [])[1]
    assert isinstance(backend.log.redis, redis.Redis)
    entry = f"{end.epoch}-{end.sequence + 1}"
    backend.log.redis.xadd(backend.log.key(shard, "log"), {b"e": field}, id=entry)
    plant_epoch(backend.log, shard, sequence=end.sequence + 1)


def test_a_message_of_a_chat_that_does_not_exist_becomes_a_dead_letter(
    backend: Backend, chat: str
) -> None:
    """An INSERT that inserts no row must not go unnoticed."""
    shard = backend.counters.shard(chat)
    backend.log.verify(shard, 1, Parent(chat, 99), 0, create=True)
    send(backend, chat, "to nowhere", chat=99)
    backend.drainer.drain_all()
    assert query(backend, "SELECT reason FROM dead_letter") == [("the chat does not exist",)]


def test_a_second_message_under_a_stored_number_becomes_a_dead_letter(
    backend: Backend, chat: str
) -> None:
    """The stored message is not overwritten."""
    send(backend, chat, "first")
    backend.drainer.drain_all()
    shard = backend.counters.shard(chat)
    plant_counter(backend.log, shard, Parent(chat, 1), issued=0)
    send(backend, chat, "impostor", "second")
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "first", 2: "second"}
    assert query(backend, "SELECT number, reason FROM dead_letter") == [
        (1, "another message has this number")
    ]


def test_the_first_drain_of_an_epoch_skips_stored_messages(backend: Backend, chat: str) -> None:
    """Redis is restored from an old copy whose log is stored already: nothing is stored twice."""
    send(backend, chat, "a", "b")
    backend.acceptor.accept(AcceptRequest.chats(chat))
    copy = copy_redis(backend.log.redis)
    backend.drainer.drain_all()
    backend.catalog.messages.edit(chat, 1, 1, {"text": "edited"})
    backend.catalog.messages.delete(chat, 1, 2)
    send(backend, chat, "c")
    backend.drainer.drain_all()
    bring_back(backend.log.redis, copy)
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "edited", 3: "c"}
    assert send(backend, chat, "d") == 4, "the old copy's counter was behind"
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]


def test_a_number_that_an_old_copy_brings_back_is_listed_by_its_time(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored below others, in a block of which the times are recorded already."""
    monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
    assert isinstance(backend.log.redis, redis.Redis)
    send(backend, chat, "1", "2")
    backend.drainer.drain_all()
    send(backend, chat, "3")
    copy = copy_redis(backend.log.redis)
    shard = backend.counters.shard(chat)
    backend.log.redis.delete(*(backend.log.key(shard, name) for name in ("log", "epoch")))
    send(backend, chat, "4", "5", "6", "7", "8")
    backend.drainer.drain_all()
    bring_back(backend.log.redis, copy)
    backend.drainer.drain_all()
    stored = {m.number: m.created_at for m in backend.catalog.messages.list(chat, 1)}
    assert list(stored) == list(range(1, 9))
    found = backend.catalog.messages.list(chat, 1, MessageRange(since=stored[3]))
    assert [message.number for message in found] == list(range(3, 9))


def test_a_new_epoch_decides_what_was_lost_in_an_idle_shard(backend: Backend, chat: str) -> None:
    """Accepted, and lost with the log before it was stored; the counter was kept."""
    assert isinstance(backend.log.redis, redis.Redis)
    assert send(backend, chat, "kept") == 1
    backend.drainer.drain_all()
    assert send(backend, chat, "lost") == 2
    shard = backend.counters.shard(chat)
    backend.log.redis.delete(*(backend.log.key(shard, name) for name in ("log", "epoch")))
    assert isinstance(backend.catalog.messages.get(chat, 1, 2), PendingNumber)
    assert backend.drainer.drain_all() == 0, "the log is empty"
    with pytest.raises(NotFound):
        backend.catalog.messages.get(chat, 1, 2)


def test_no_stored_number_is_issued_again_after_a_wipe_of_redis(
    backend: Backend, chat: str
) -> None:
    """This includes the numbers of deleted messages."""
    send(backend, chat, "a", "b", "c")
    backend.drainer.drain_all()
    backend.catalog.messages.delete(chat, 1, 3)
    assert isinstance(backend.log.redis, redis.Redis)
    backend.log.redis.flushall()
    assert send(backend, chat, "d") == 4
    assert backend.acceptor.accept(AcceptRequest.chats(chat)).first == 2


def test_a_lost_counter_is_created_again_only_after_its_log_is_drained(
    backend: Backend, chat: str
) -> None:
    """Redis may have evicted the counter alone; numbers that it issued can still be in the log."""
    assert send(backend, chat, "a", "b") == 1
    shard = backend.counters.shard(chat)
    assert isinstance(backend.log.redis, redis.Redis)
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(chat, 1)))
    assert send(backend, chat, "c") == 3


def test_concurrent_drains_store_each_message_once(
    backend: Backend, settings: Settings, chat: str
) -> None:
    """A drain that finds the shard locked returns; the holder looks again after it has released the lock."""
    stop = threading.Event()

    def drain() -> None:
        with open_backend(settings) as other:
            while not stop.is_set():
                other.drainer.drain_all()

    with ThreadPoolExecutor(4) as pool:
        drains = [pool.submit(drain) for _ in range(3)]
        for n in range(200):
            send(backend, chat, f"{n}")
        try:
            wait_until(lambda: not backend.log.waiting(backend.database.installation.shards))
        finally:
            stop.set()
        for done in drains:
            done.result()
    assert texts(backend, chat) == {n + 1: f"{n}" for n in range(200)}


def test_a_drain_that_holds_a_shard_for_too_long_is_ended(
    backend: Backend, settings: Settings, chat: str
) -> None:
    """Another drain takes over, and the stuck one stores nothing when it continues."""
    inside, go_on = threading.Event(), threading.Event()

    def stall(name: str) -> None:
        if name == "rows":
            inside.set()
            go_on.wait(PATIENCE_SECONDS)

    def stalled_drain() -> BaseException | None:
        with open_backend(settings) as other:
            epochs = Epochs(other.log, other.database)
            return _outcome(Drainer(other.log, other.database, epochs, step=stall), shard)

    shard = backend.counters.shard(chat)
    send(backend, chat, "a")
    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(stalled_drain)
        assert inside.wait(PATIENCE_SECONDS)
        second = Drainer(
            backend.log,
            backend.database,
            Epochs(backend.log, backend.database),
            stuck_timeout_seconds=0.2,
        )
        assert second.drain(shard) == 0, "the shard is locked"
        try:
            wait_until(lambda: second.drain(shard))
        finally:
            go_on.set()
        assert stalled.result() is not None
    assert texts(backend, chat) == {1: "a"}


def test_a_drain_that_makes_progress_is_not_ended(
    backend: Backend, settings: Settings, chat: str
) -> None:
    """However long it holds the shard: on a busy machine one that works may need long, too."""
    need_sessions()
    shard = backend.counters.shard(chat)
    with open_backend(settings) as other, backend.database.connect() as connection:
        epochs = Epochs(other.log, other.database)
        drainer = Drainer(other.log, other.database, epochs, stuck_timeout_seconds=0.001)
        with backend.database.begin() as tx:
            locks.name_transaction(tx, transaction_name(shard))
            assert shards.lock_shard(tx, shard)
            for _ in range(5):
                time.sleep(0.002)
                assert drainer.drain(shard) == 0, "the shard is locked"
                tx.execute(text("SELECT 1"))
        assert shards.shard_state(connection, shard)


def test_after_a_drain_was_ended_the_next_batch_is_half_as_large(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was too much for one transaction would be too much again."""
    need_sessions()
    shard = backend.counters.shard(chat)
    sizes: list[int] = []
    read = backend.log.read

    def watch(*arguments: Any, **options: Any) -> LogPage:
        page = read(*arguments, **options)
        sizes.append(len(page.entries))
        return page

    def end_first(name: str) -> None:
        if name == "rows" and len(sizes) == 1:
            query(
                backend,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name",
                name=transaction_name(shard),
            )

    monkeypatch.setattr(backend.log, "read", watch)
    for number in range(9):
        send(backend, chat, str(number))
    epochs, limits = Epochs(backend.log, backend.database), BatchLimits(entries=4)
    drainer = Drainer(backend.log, backend.database, epochs, step=end_first, limits=limits)
    with pytest.raises(EngineDown):
        drainer.drain(shard)
    drainer.drain(shard)
    assert sizes == [4, 2, 4, 3]
    assert len(texts(backend, chat)) == 9


def test_a_batch_is_committed_up_to_where_its_limits_end(backend: Backend, chat: str) -> None:
    """Texts that fold to many times their length are stored a part of a page at a time."""
    stored: list[int] = []

    def look(name: str) -> None:
        if name == "committed":
            stored.append(len(texts(backend, chat)))

    for _ in range(4):
        send(backend, chat, "\ufdfa" * 1000)
    epochs, limits = Epochs(backend.log, backend.database), BatchLimits(length=30_000)
    drainer = Drainer(backend.log, backend.database, epochs, step=look, limits=limits)
    drainer.drain(backend.counters.shard(chat))
    assert stored[-1] == 4
    assert stored[0] in (1, 2)


@pytest.mark.parametrize("limits", [BatchLimits(entries=1), BatchLimits(seconds=0)])
def test_entries_of_an_earlier_epoch_are_stored_in_one_drain(
    backend: Backend, chat: str, limits: BatchLimits
) -> None:
    """However many batches that takes, and if a worker has trimmed the log before.

    Redis comes back while SQL follows the one that replaced it: the cursor is of a later epoch than these.
    """
    shard = backend.counters.shard(chat)
    for number in range(5):
        send(backend, chat, str(number))
    query(
        backend,
        "UPDATE shard SET epoch = epoch + 1, cursor_epoch = epoch + 1, cursor_sequence = 0,"
        " ahead_epoch = epoch + 1, ahead_sequence = 0 WHERE number = :shard RETURNING number",
        shard=shard,
    )
    epochs = Epochs(backend.log, backend.database)
    epochs.begin_epoch(shard, "test")
    KeptLog(backend.log, backend.database, memory_share=0.2).trim_all()
    Drainer(backend.log, backend.database, epochs, limits=limits).drain(shard)
    assert len(texts(backend, chat)) == 5


@pytest.fixture
def neighbour(backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An application with a chat, in the shard of `chat`."""
    tokens = iter(new_token, None)
    shard = backend.counters.shard(chat)
    token = next(token for token in tokens if backend.counters.shard(token) == shard)
    monkeypatch.setattr(applications, "new_token", lambda: token)
    assert backend.catalog.applications.create("x").token == token
    backend.acceptor.accept(AcceptRequest.chats(token))
    backend.drainer.drain_all()
    return token


def defer(backend: Backend, chat: str, neighbour: str) -> Drainer:
    """Drain until `chat`, whose texts are dear, is deferred, and `neighbour` stored; returns the drainer."""
    for _ in range(8):
        send(backend, chat, "\ufdfa" * 1000)
    send(backend, neighbour, "a")
    epochs, limits = Epochs(backend.log, backend.database), BatchLimits(length=30_000)
    drainer = Drainer(backend.log, backend.database, epochs, limits=limits)
    shard = backend.counters.shard(chat)
    while not texts(backend, neighbour):
        drainer.drain(shard, lambda: False)  # one batch
    assert len(texts(backend, chat)) < 8
    return drainer


def test_an_application_whose_texts_are_dear_does_not_delay_the_others_of_its_shard(
    backend: Backend, chat: str, neighbour: str
) -> None:
    """Not their reads, nor what waits until they are stored, nor their deletions."""
    drainer = defer(backend, chat, neighbour)
    shard = backend.counters.shard(chat)
    assert texts(backend, neighbour) == {1: "a"}
    send(backend, neighbour, "b")
    drainer.drain(shard, lambda: False)
    drainer.drain(shard, lambda: False)
    _, end = backend.log.read_issued(shard, [])
    accepted = Accepted(2, 2, shard, end)
    assert backend.catalog.waiting.wait_stored(neighbour, accepted, 0)
    assert not backend.catalog.waiting.wait_stored(chat, accepted, 0)
    with pytest.raises(NotFound):
        backend.catalog.messages.get(neighbour, 1, 3)
    drainer.drain(shard)
    assert len(texts(backend, chat)) == 8
    assert texts(backend, neighbour) == {1: "a", 2: "b"}


def test_a_deferred_application_leaves_half_of_the_log_to_the_others(
    backend: Backend, chat: str, neighbour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the backlog of their shard takes the other half, nothing more is accepted for it."""
    drainer = defer(backend, chat, neighbour)
    monkeypatch.setattr(backend.log, "max_entries", 10)
    backend.acceptor.refresh()
    with pytest.raises(LogFull):
        send(backend, chat, "too much")
    assert send(backend, neighbour, "b") == 2
    drainer.drain(backend.counters.shard(chat))
    backend.acceptor.refresh()
    assert send(backend, chat, "accepted again") == 9


def test_a_drain_with_a_time_ends_between_two_batches(backend: Backend, chat: str) -> None:
    """The others' shards have their turn then."""
    for number in range(3):
        send(backend, chat, str(number))
    epochs, limits = Epochs(backend.log, backend.database), BatchLimits(entries=1)
    drainer = Drainer(backend.log, backend.database, epochs, limits=limits)
    shard = backend.counters.shard(chat)
    assert drainer.drain_for(shard, 0, lambda: True), "something is left"
    assert len(texts(backend, chat)) == 1
    assert drainer.drain_all(seconds_per_shard=0) == 1
    assert not drainer.drain_for(shard, PATIENCE_SECONDS, lambda: True)
    assert len(texts(backend, chat)) == 3


@pytest.mark.parametrize("by", ["a new epoch", "an earlier release"])
def test_what_was_stored_ahead_of_a_deferred_application_is_not_stored_again(
    backend: Backend, chat: str, neighbour: str, by: str
) -> None:
    """Neither the first drain of an epoch nor a worker of an earlier release knows what was stored ahead."""
    drainer = defer(backend, chat, neighbour)
    shard = backend.counters.shard(chat)
    if by == "a new epoch":
        assert isinstance(backend.log.redis, redis.Redis)
        backend.log.redis.delete(backend.log.key(shard, "epoch"))
    else:
        with backend.database.begin() as tx:
            tx.execute(
                text("UPDATE shard SET ahead_epoch = 0, ahead_sequence = 0, deferred = '{}'")
            )
    drainer.drain(shard)
    assert len(texts(backend, chat)) == 8
    assert texts(backend, neighbour) == {1: "a"}
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]
    ((stored,),) = query(backend, "SELECT stored FROM shard WHERE number = :shard", shard=shard)
    assert stored == 2 + 8 + 1, "chats and messages"


def _outcome(drainer: Drainer, shard: int) -> BaseException | None:
    try:
        drainer.drain(shard)
    except InstaChatError as error:
        return error
    return None


def test_a_lock_time_out_makes_no_dead_letter(backend: Backend, chat: str) -> None:
    """It rolls the drain's transaction back, and the next drain stores the message."""
    need_sessions()
    send(backend, chat, "a")
    with backend.database.begin() as tx:
        tx.execute(text("LOCK TABLE message IN EXCLUSIVE MODE"))
        with backend.database.begin() as other:
            other.execute(text("ALTER DATABASE " + _name(backend) + " SET lock_timeout = '50ms'"))
        backend.database.engine.dispose(close=False)
        with pytest.raises(Exception, match="nothing was changed"):
            backend.drainer.drain_all()
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "a"}
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]


def _name(backend: Backend) -> str:
    return str(query(backend, "SELECT current_database()")[0][0])


# -- deletions ----------------------------------------------------------------------------------------


def test_a_chat_whose_deletion_is_refused_accepts_messages_again(
    backend: Backend, chat: str
) -> None:
    """A chat with messages is not deleted."""
    send(backend, chat, "a")
    with pytest.raises(HasChildren):
        backend.catalog.chats.delete(chat, 1)
    assert send(backend, chat, "b") == 2


def test_a_message_accepted_before_a_deletion_keeps_its_chat(backend: Backend, chat: str) -> None:
    """The drain decides in the log's order, even if the message was not stored when the request came."""
    send(backend, chat, "just accepted")
    answers = backend.acceptor.accept_batch([AcceptRequest.deletion(chat, 1)])
    assert not isinstance(answers[0], Exception)
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "just accepted"}


def test_no_message_is_accepted_after_a_deletion(backend: Backend, chat: str) -> None:
    """Until the drain has decided, the error says to try again; afterwards it is NotFound."""
    backend.acceptor.accept(AcceptRequest.deletion(chat, 1))
    with pytest.raises(Exception, match="being deleted"):
        send(backend, chat, "late")
    backend.drainer.drain_all()
    with pytest.raises(NotFound):
        send(backend, chat, "late")
    with pytest.raises(NotFound):
        backend.catalog.chats.get(chat, 1)


def test_the_token_of_a_deleted_application_is_unknown(backend: Backend, application: str) -> None:
    """An application without chats can be deleted."""
    backend.catalog.applications.delete(application)
    for call in (
        lambda: backend.catalog.applications.get(application),
        lambda: backend.acceptor.accept(AcceptRequest.chats(application)),
        lambda: backend.catalog.applications.rename(application, "x"),
    ):
        with pytest.raises(NotFound):
            call()


def test_an_application_with_chats_is_not_deleted(backend: Backend, chat: str) -> None:
    """Its chats must be deleted first."""
    with pytest.raises(HasChildren):
        backend.catalog.applications.delete(chat)
    backend.catalog.chats.delete(chat, 1)
    backend.catalog.applications.delete(chat)


def test_a_deletion_read_again_does_not_delete_a_reopened_chat(backend: Backend, chat: str) -> None:
    """A drain that refuses a deletion reopens the chat, and may be killed before it commits."""
    send(backend, chat, "a")
    deletion = backend.acceptor.accept(AcceptRequest.deletion(chat, 1))
    assert backend.log.reopen(deletion.shard, 1, Parent(chat, 1), deletion.entry)
    backend.drainer.drain_all()
    assert send(backend, chat, "b") == 2
    backend.drainer.drain_all()
    assert texts(backend, chat) == {1: "a", 2: "b"}


# -- jobs ----------------------------------------------------------------------------------------------


def test_what_comes_during_a_drain_is_stored_without_another_wake_up(
    backend: Backend, chat: str
) -> None:
    """The drain looks for it at its end; what comes after that wakes a worker up again."""
    woken: list[int] = []
    acceptor = backend.acceptor.with_notify(woken.append)
    request = AcceptRequest.messages(chat, 1, ["text"])

    def accept_more(step: str) -> None:
        if step == "read" and len(texts(backend, chat)) < 3:
            acceptor.accept(request)

    acceptor.accept(request)
    assert len(woken) == 1
    epochs = Epochs(backend.log, backend.database)
    drainer = Drainer(backend.log, backend.database, epochs, step=accept_more)
    drainer.drain(backend.counters.shard(chat))
    assert len(texts(backend, chat)) == 4
    assert len(woken) == 1
    acceptor.accept(request)
    assert len(woken) == 2


@pytest.fixture
def worker(backend: Backend) -> Iterator[None]:
    """The jobs of a worker run in threads of this process, without its sweeps."""
    with backend.jobs.consuming(JobHandlers(drain=backend.drainer.drain)):
        yield


@pytest.mark.usefixtures("worker")
def test_a_wake_up_alone_makes_a_worker_drain(backend: Backend, chat: str) -> None:
    """This worker never sweeps: each message is stored because of its wake-up."""
    for n in range(20):
        accepted = backend.acceptor.accept(AcceptRequest.messages(chat, 1, [f"{n}"]))
        assert backend.catalog.waiting.wait_stored(chat, accepted, PATIENCE_SECONDS)


@pytest.mark.usefixtures("worker")
def test_an_invalid_job_is_discarded(backend: Backend, chat: str) -> None:
    """A value in the queue is not JSON, or names no job; the next job runs."""
    assert isinstance(backend.log.redis, redis.Redis)
    for rubbish in (b"\x80\x04pickle", b"{}", b'{"name": "os.system", "args": ["true"]}', b"[1]"):
        backend.log.redis.lpush(QUEUE_KEY, rubbish)
    accepted = backend.acceptor.accept(AcceptRequest.messages(chat, 1, ["a"]))
    assert backend.catalog.waiting.wait_stored(chat, accepted, PATIENCE_SECONDS)
    wait_until(lambda: backend.jobs.length() == 0)
