"""Dead letters: a retry stores once, under its own number; no kind of invalid data stops a drain."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

import pytest
import redis
from sqlalchemy import text

from backend.api import schemas
from backend.bootstrap import Backend
from backend.domain import serialization
from backend.domain.errors import Gone, NotFound
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Message, Parent
from backend.ingest import batch
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest
from backend.reconcile.findings import FindingKind
from backend.storage.postgres import dead_letters, gaps
from backend.storage.postgres.dead_letters import DeadLetter
from backend.storage.redis.types import Creation
from tests.support.faults.killed import Killed
from tests.support.faults.shortcuts import rejecting_texts, scalar, send, stored
from tests.support.message_fields import MESSAGES, without_nulls
from tests.support.redis_values import plant_counter, plant_epoch

pytestmark = pytest.mark.faults


@pytest.fixture
def rejected(backend: Backend, chat: str) -> str:
    """The token of an application in whose chat message 2 of 3 was rejected; it could be stored now."""
    with rejecting_texts(backend.database):
        send(backend, chat, "one", "refused", "three")
        backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "one", 3: "three"}
    return chat


def keys(backend: Backend) -> list[str]:
    """The keys of all dead letters."""
    return [kept.letter.key for kept in backend.dead_letters.all()]


def count(backend: Backend, token: str) -> int:
    """The live count of chat 1."""
    found: int = getattr(backend.catalog.chats.get(token, 1), "messages_count", -1)
    return found


def append(backend: Backend, token: str, field: bytes) -> None:
    """Append an entry to the log as another program might."""
    assert isinstance(backend.log.redis, redis.Redis)
    shard = backend.counters.shard(token)
    _, end = backend.log.read_issued(shard, [])
    entry = f"{end.epoch}-{end.sequence + 1}"
    backend.log.redis.xadd(backend.log.key(shard, "log"), {b"e": field}, id=entry)
    plant_epoch(backend.log, shard, sequence=end.sequence + 1)


def test_a_retry_stores_a_message_once_under_its_own_number(
    backend: Backend, rejected: str
) -> None:
    """It is read, counted and searched as any other message; a second retry finds no dead letter."""
    assert count(backend, rejected) == 2
    with pytest.raises(Gone):
        backend.catalog.messages.get(rejected, 1, 2)
    (key,) = keys(backend)
    assert backend.dead_letters.retry(key) is None
    assert stored(backend, rejected) == {1: "one", 2: "refused", 3: "three"}
    assert count(backend, rejected) == 3
    assert [m.message.number for m in backend.catalog.messages.search(rejected, 1, "REFUSED")] == [
        2
    ]
    message = backend.catalog.messages.get(rejected, 1, 2)
    assert isinstance(message, Message)
    assert message.created_at == message.updated_at
    with pytest.raises(NotFound):
        backend.dead_letters.retry(key)
    assert count(backend, rejected) == 3


def test_a_retry_restores_every_field_that_a_client_wrote(backend: Backend, chat: str) -> None:
    """A dead letter keeps the whole message, and so does the drain, of those beside it; null stays null."""
    beside = [fields | {"text": "a text"} for fields in MESSAGES]
    batch = [*MESSAGES, *beside]
    new_messages = [schemas.MessageInput(**without_nulls(fields)).new_message() for fields in batch]
    with rejecting_texts(backend.database):
        backend.acceptor.accept(AcceptRequest.messages(chat, 1, new_messages))
        backend.drainer.drain_all()
    assert len(keys(backend)) == len(MESSAGES)
    for key in keys(backend):
        assert backend.dead_letters.retry(key) is None
    for message, fields in zip(backend.catalog.messages.list(chat, 1), batch, strict=True):
        assert serialization.message(message).items() >= fields.items()


@pytest.mark.parametrize("where", ["read", "rows", "committed", "trimmed"])
def test_a_rejection_killed_at_a_named_step_of_its_drain_is_counted_once(
    backend: Backend, chat: str, where: str
) -> None:
    """The row, the dead letter and the count are committed together, or none of them."""

    def step(name: str) -> None:
        if name == where:
            raise Killed

    epochs = Epochs(backend.log, backend.database)
    with rejecting_texts(backend.database):
        send(backend, chat, "one", "refused", "three")
        with pytest.raises(Killed):
            Drainer(backend.log, backend.database, epochs, step=step).drain(
                backend.counters.shard(chat)
            )
        backend.drainer.drain_all()
    assert count(backend, chat) == len(stored(backend, chat)) == 2
    assert len(keys(backend)) == 1


def test_concurrent_retries_of_a_dead_letter_count_its_message_once(
    backend: Backend, rejected: str
) -> None:
    """Each caller learns that it is done, or that the dead letter does not exist any more."""
    (key,) = keys(backend)

    def retry() -> str | None:
        try:
            return backend.dead_letters.retry(key)
        except NotFound:
            return None

    with ThreadPoolExecutor(6) as pool:
        assert {done.result() for done in [pool.submit(retry) for _ in range(6)]} == {None}
    assert count(backend, rejected) == len(stored(backend, rejected)) == 3


def test_a_retry_that_fails_returns_the_reason_and_changes_nothing(
    backend: Backend, rejected: str
) -> None:
    """The count and the dead letter stay, and the reason does not contain the text."""
    (key,) = keys(backend)
    with rejecting_texts(backend.database):
        assert backend.dead_letters.retry(key) == "can't be stored: PostgreSQL says 23514"
    assert keys(backend) == [key]
    assert count(backend, rejected) == 2


def test_a_retry_whose_transaction_is_rolled_back_counts_nothing(
    backend: Backend, rejected: str
) -> None:
    """The row, the count, the outbox and the dead letter change together, or none of them."""
    (key,) = keys(backend)
    with backend.database.begin() as tx:
        tx.execute(
            text(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE 'no commit' USING ERRCODE = 'disk_full'; END $$;
                CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON dead_letter
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
                """
            )
        )
    with pytest.raises(Exception, match="no commit"):
        backend.dead_letters.retry(key)
    assert count(backend, rejected) == 2
    with backend.database.begin() as tx:
        tx.execute(text("DROP TRIGGER refuse ON dead_letter"))
    assert backend.dead_letters.retry(key) is None
    assert count(backend, rejected) == 3


def test_a_purged_number_stays_rejected(backend: Backend, rejected: str) -> None:
    """Only the dead letter is deleted; its number is never issued again."""
    (key,) = keys(backend)
    assert backend.dead_letters.purge(key)
    assert not backend.dead_letters.purge(key)
    with pytest.raises(Gone):
        backend.catalog.messages.get(rejected, 1, 2)
    assert count(backend, rejected) == 2
    assert send(backend, rejected, "next") == 4


def test_a_dead_letter_can_be_retried_once_its_chat_exists(backend: Backend, chat: str) -> None:
    """Its numbers are not issued again, although the chat's counter had to be created again."""
    shard = backend.counters.shard(chat)
    backend.log.verify(shard, 1, Parent(chat, 2), 0, create=True)
    payload = pack_messages(chat, 2, ["a", "b\0", "c"])
    backend.log.accept(shard, [Creation("messages", Parent(chat, 2), payload)], EntryId(0, 0))
    backend.drainer.drain_all()
    (key,) = keys(backend)
    assert backend.dead_letters.retry(key) == "chat 2 does not exist, or is removed"
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(chat, 2)))
    backend.acceptor.accept(AcceptRequest.chats(chat))
    backend.drainer.drain_all()
    assert backend.dead_letters.retry(key) is None
    assert stored(backend, chat, 2) == {1: "a", 3: "c"}
    assert keys(backend) == [f"{key}-2"], "the one that can't be stored is a letter of its own"
    assert send(backend, chat, "d", chat=2) == 4
    backend.drainer.drain_all()
    assert getattr(backend.catalog.chats.get(chat, 2), "messages_count", 0) == 3


def test_a_number_with_two_dead_letters_belongs_to_the_first(
    backend: Backend, rejected: str
) -> None:
    """A retry of the second fails, before and after the first is stored."""
    shard = backend.counters.shard(rejected)
    plant_counter(backend.log, shard, Parent(rejected, 1), issued=1)
    send(backend, rejected, "impostor")
    backend.drainer.drain_all()
    first, second = keys(backend)
    assert backend.dead_letters.retry(second) == "another message has this number"
    assert backend.dead_letters.retry(first) is None
    assert backend.dead_letters.retry(second) == "another message has this number"
    assert stored(backend, rejected)[2] == "refused"
    assert count(backend, rejected) == 3


@contextmanager
def an_older_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While inside, a drain can read no entry: a newer program has written them."""

    def unpack(_: bytes) -> NoReturn:
        raise ValueError("not an event of this release")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "unpack", unpack)
        yield


def repair(backend: Backend) -> list[FindingKind]:
    """The kinds of difference that `reconcile --repair` has found."""
    return [finding.kind for finding in backend.reconciler.begin(repair=True).findings()]


@pytest.fixture(params=[gaps.MAX_SINGLE_ROWS, 1], ids=["a row each", "one row for all"])
def _stored_gaps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How lost numbers are stored."""
    monkeypatch.setattr(gaps, "MAX_SINGLE_ROWS", request.param)


@pytest.mark.usefixtures("_stored_gaps")
def test_a_retry_stores_messages_whose_numbers_were_stored_as_lost(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older worker could not read their entry, and `reconcile --repair` took them for lost."""
    send(backend, chat, "one")
    backend.drainer.drain_all()
    with an_older_worker(monkeypatch):
        send(backend, chat, "two", "three")
        backend.drainer.drain_all()
    send(backend, chat, "four")
    backend.drainer.drain_all()
    assert repair(backend) == [FindingKind.GAP_UNEXPLAINED]
    assert count(backend, chat) == 2
    (key,) = keys(backend)
    assert backend.dead_letters.retry(key) is None
    assert stored(backend, chat) == {1: "one", 2: "two", 3: "three", 4: "four"}
    assert count(backend, chat) == 4
    assert keys(backend) == []
    assert repair(backend) == []


@pytest.mark.usefixtures("_stored_gaps")
def test_a_retry_stores_chats_whose_numbers_were_stored_as_lost(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take messages again, and a chat that was deleted stays closed."""
    with an_older_worker(monkeypatch):
        backend.acceptor.accept(AcceptRequest.chats(chat, 2))
        backend.drainer.drain_all()
    assert repair(backend) == [FindingKind.COUNTER_AHEAD]
    with pytest.raises(NotFound):
        send(backend, chat, "too early", chat=3)
    (key,) = keys(backend)
    assert backend.dead_letters.retry(key) is None
    assert [found.number for found in backend.catalog.chats.list(chat)] == [1, 2, 3]
    assert getattr(backend.catalog.applications.get(chat), "chats_count", -1) == 3
    assert send(backend, chat, "hello", chat=3) == 1
    backend.drainer.drain_all()
    assert stored(backend, chat, 3) == {1: "hello"}
    assert keys(backend) == []
    assert repair(backend) == []


def test_a_retry_that_stores_none_of_its_messages_says_so(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is a dead letter of its own then, which says what is wrong."""
    with an_older_worker(monkeypatch), rejecting_texts(backend.database):
        send(backend, chat, "refused", "refused, too")
        backend.drainer.drain_all()
    (key,) = keys(backend)
    with rejecting_texts(backend.database):
        assert backend.dead_letters.retry(key) == "can't be stored: PostgreSQL says 23514"
    assert keys(backend) == [f"{key}-1", f"{key}-2"]
    assert [backend.dead_letters.retry(each) for each in keys(backend)] == [None, None]
    assert count(backend, chat) == len(stored(backend, chat)) == 2


def test_a_dead_letter_of_a_removed_chat_can_only_be_purged(
    backend: Backend, rejected: str
) -> None:
    """Nothing is stored under a removed chat, or under a chat without a row."""
    (key,) = keys(backend)
    backend.catalog.chats.delete(rejected, 1, cascade=True)
    assert backend.dead_letters.retry(key) == "chat 1 does not exist, or is removed"
    backend.cascade_deleter.delete_all()
    assert backend.dead_letters.retry(key) == "chat 1 does not exist, or is removed"
    assert scalar(backend, "SELECT count(*) FROM message") == 0


def test_a_retry_of_a_publishing_dead_letter_adds_its_message_to_the_outbox(
    backend: Backend, rejected: str
) -> None:
    """No count, row or number changes. Without a search index the retry fails and says so."""
    event = f'["{rejected}", 1, 1, 5]'.encode()
    letter = DeadLetter("publish-1", "too large", rejected, 1, 1, event)
    with backend.database.begin() as tx:
        dead_letters.add_dead_letters(tx, [letter], "publish")
    assert backend.dead_letters.retry("publish-1") == (
        "nothing is published here: there is no search index"
    )
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE installation SET publishing = true"))
    assert backend.dead_letters.retry("publish-1") is None
    assert scalar(backend, "SELECT count(*) FROM outbox") == 1
    drained = keys(backend)
    assert backend.dead_letters.retry(drained[0]) is None
    assert scalar(backend, "SELECT count(*) FROM outbox") == 2
    assert keys(backend) == []


def test_a_drain_stores_valid_messages_beside_every_kind_of_invalid_entry(
    backend: Backend, chat: str
) -> None:
    """Undecodable, rejected and foreign entries become dead letters, as do those without a chat."""
    shard = backend.counters.shard(chat)
    backend.log.verify(shard, 1, Parent(chat, 99), 0, create=True)
    with rejecting_texts(backend.database):
        for n in range(3):
            send(backend, chat, f"good {n}")
            append(backend, chat, b"\xff rubbish")
            append(backend, chat, b'1 1 ["m","' + chat.encode() + b'",1,["impostor"]]')
            send(backend, chat, "refused")
            send(backend, chat, "to nowhere", chat=99)
            payload = pack_messages(chat, 1, ["nul\0"])
            backend.log.accept(
                shard, [Creation("messages", Parent(chat, 1), payload)], EntryId(0, 0)
            )
        backend.drainer.drain_all()
    assert set(stored(backend, chat).values()) == {"good 0", "good 1", "good 2"}
    assert backend.log.waiting([shard]) == 0
    assert len(keys(backend)) == 3 * 5
    reasons = {key: backend.dead_letters.retry(key) for key in keys(backend)}
    assert {key for key, reason in reasons.items() if reason} == set(keys(backend))
    assert len(keys(backend)) == 3 * 4
    assert count(backend, chat) == len(stored(backend, chat)) == 6
