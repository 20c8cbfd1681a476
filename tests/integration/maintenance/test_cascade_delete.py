"""Cascades: in the log's order, completed although processes are killed, counted once."""

import random
import secrets
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import pytest
import redis
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import HasChildren, InstaChatError, NotFound
from backend.domain.model import Parent
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest
from backend.maintenance import cascade_delete
from backend.maintenance.cascade_delete import CascadeDeleter
from backend.storage.postgres import applications
from tests.support.faults.killed import Killed
from tests.support.faults.shortcuts import scalar, send, stored
from tests.support.redis_copy import bring_back, copy_redis
from tests.support.redis_values import plant_epoch
from tests.support.repeating import repeating

pytestmark = pytest.mark.faults


def rows(backend: Backend) -> dict[str, int]:
    """How many chats and messages have a row, in any state."""
    tables = ("chat", "message")
    return {table: int(str(scalar(backend, f"SELECT count(*) FROM {table}"))) for table in tables}


def keys(backend: Backend) -> set[str]:
    """The counters in Redis, without their shard."""
    assert isinstance(backend.log.redis, redis.Redis)
    names = (key.decode().partition("}:")[2] for key in backend.log.redis.scan_iter())
    return {name for name in names if name.startswith(("app:", "chat:"))}


def outbox(backend: Backend) -> list[tuple[int, int, int]]:
    """What the outbox names: (chat, number, version)."""
    statement = "SELECT unnest(chats), unnest(numbers), unnest(versions) FROM outbox"
    with backend.database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


@pytest.fixture
def family(backend: Backend, application: str) -> str:
    """The token of an application with three chats of some messages, one of them deleted."""
    backend.acceptor.accept(AcceptRequest.chats(application, 3))
    for chat in (1, 2):
        send(backend, application, *(f"text {n}" for n in range(20)), chat=chat)
    backend.drainer.drain_all()
    backend.catalog.messages.delete(application, 1, 3)
    backend.catalog.chats.delete(application, 3)
    return application


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of few messages and chats, so that some of them take several."""
    monkeypatch.setattr(cascade_delete, "MAX_MESSAGES", 7)
    monkeypatch.setattr(cascade_delete, "MAX_CHATS", 2)


# -- what a cascade does ------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_steps")
def test_a_cascade_deletes_a_chat_with_its_messages(backend: Backend, family: str) -> None:
    """The chat is unreachable at once and its rows are deleted later. Its tombstone and its number stay."""
    with pytest.raises(HasChildren):
        backend.catalog.chats.delete(family, 1)
    backend.catalog.chats.delete(family, 1, cascade=True)
    with pytest.raises(NotFound):
        send(backend, family, "late")
    assert backend.catalog.applications.get(family).chats_count == 1
    assert rows(backend) == {"chat": 3, "message": 40}
    assert backend.cascade_deleter.count_remaining(Parent(family, 1)) == 20
    assert list(backend.cascade_deleter.delete(Parent(family, 1))) == [7, 7, 6]
    assert backend.cascade_deleter.count_remaining(Parent(family, 1)) is None
    assert rows(backend) == {"chat": 3, "message": 20}
    assert len(stored(backend, family, 2)) == 20
    assert backend.catalog.applications.get(family).chats_count == 1
    assert backend.acceptor.accept(AcceptRequest.chats(family)).first == 4


@pytest.mark.usefixtures("small_steps")
def test_a_cascade_deletes_an_application_with_its_chats_and_counters(
    backend: Backend, family: str
) -> None:
    """Only two tombstones of the application stay: its row, and its closed counter."""
    other = backend.catalog.applications.create("another").token
    backend.acceptor.accept(AcceptRequest.chats(other))
    backend.catalog.applications.delete(family, cascade=True)
    for request in (AcceptRequest.chats(family), AcceptRequest.messages(family, 2, ["late"])):
        with pytest.raises(NotFound):
            backend.acceptor.accept(request)
    assert sum(backend.cascade_deleter.delete(Parent(family))) == 40
    backend.drainer.drain_all()
    assert rows(backend) == {"chat": 1, "message": 0}
    assert keys(backend) == {f"app:{family}", f"app:{other}", f"chat:{other}:1"}
    shard = backend.counters.shard(family)
    assert isinstance(backend.log.redis, redis.Redis)
    dirty = backend.log.redis.zrange(backend.log.key(shard, "dirty"), 0, -1)
    assert f"{family}:" not in str(dirty)
    with pytest.raises(NotFound):
        send(backend, family, "late", chat=2)


def test_a_cascade_deletes_messages_that_were_only_accepted_before_it(
    backend: Backend, family: str
) -> None:
    """The drain stores them first, and then decides on the deletion."""
    send(backend, family, "just accepted", chat=2)
    backend.acceptor.accept(AcceptRequest.chats(family))
    backend.acceptor.accept(AcceptRequest.deletion(family, cascade=True))
    backend.drainer.drain_all()
    backend.cascade_deleter.delete_all()
    assert rows(backend) == {"chat": 0, "message": 0}
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0


def test_a_cascade_adds_every_deleted_message_to_the_outbox(backend: Backend, family: str) -> None:
    """Its version is above the row's. A message that was removed before is not added again."""
    versions = {
        number: int(str(scalar(backend, "SELECT version FROM message WHERE number = :n", n=number)))
        for number in (1, 20)
    }
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE installation SET publishing = true"))
        tx.execute(text("DELETE FROM outbox"))
    backend.catalog.chats.delete(family, 1, cascade=True)
    backend.cascade_deleter.delete_all()
    named = outbox(backend)
    assert sorted(number for _, number, _ in named) == [n for n in range(1, 21) if n != 3]
    assert all(v == versions[n] + 1 for _, n, v in named if n in versions)


# -- what interrupts it -------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("where", ["rows", "counters", "committed"])
@pytest.mark.parametrize("nth", [1, 3])
def test_a_cascade_killed_at_a_named_step_is_completed_by_the_next_run(
    backend: Backend, family: str, where: str, nth: int
) -> None:
    """That run finds the rest in SQL. The outbox names each message exactly once."""
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE installation SET publishing = true"))
        tx.execute(text("DELETE FROM outbox"))
    backend.catalog.applications.delete(family, cascade=True)
    passed = count(1)

    def step(name: str) -> None:
        if name == where and next(passed) == nth:
            raise Killed

    with suppress(Killed):
        CascadeDeleter(backend.log, backend.database, backend.routing, step=step).delete_all()
    CascadeDeleter(backend.log, backend.database, backend.routing).delete_all()
    assert rows(backend) == {"chat": 0, "message": 0}
    assert keys(backend) == {f"app:{family}"}
    named = outbox(backend)
    assert len(named) == len({(chat, number) for chat, number, _ in named}) == 39


@pytest.mark.parametrize("where", ["read", "rows", "committed", "trimmed"])
@pytest.mark.parametrize("chat", [1, 3])
def test_a_deletion_killed_at_a_named_step_of_its_drain_is_counted_once(
    backend: Backend, application: str, where: str, chat: int
) -> None:
    """The count falls by one, with a cascade or without it."""
    backend.acceptor.accept(AcceptRequest.chats(application, 3))
    send(backend, application, "in the way")
    backend.drainer.drain_all()
    backend.acceptor.accept(AcceptRequest.deletion(application, chat, cascade=chat == 1))
    shard = backend.counters.shard(application)

    def step(name: str) -> None:
        if name == where:
            raise Killed

    epochs = Epochs(backend.log, backend.database)
    with pytest.raises(Killed):
        Drainer(backend.log, backend.database, epochs, step=step).drain(shard)
    backend.drainer.drain_all()
    assert backend.catalog.applications.get(application).chats_count == 2
    assert len(list(backend.catalog.chats.list(application))) == 2
    with pytest.raises(NotFound):
        send(backend, application, "late", chat=chat)


@pytest.mark.usefixtures("small_steps")
def test_a_cascade_holds_up_no_other_application(backend: Backend, family: str) -> None:
    """Not even one of its shard: while each transaction is open, others create, store, edit and delete."""
    shard = backend.counters.shard(family)
    while backend.counters.shard(other := secrets.token_urlsafe(24)) != shard:
        pass
    backend.counters.create_counter(other, shard)
    with backend.database.begin() as tx:
        applications.insert_application_once(tx, other, "of the same shard", shard)
    backend.acceptor.accept(AcceptRequest.chats(other))
    made: list[str] = []

    def step(name: str) -> None:
        if name == "rows":
            number = send(backend, other, "meanwhile", "meanwhile")
            backend.drainer.drain(shard)
            backend.catalog.messages.edit(other, 1, number, {"text": f"edited {number}"})
            backend.catalog.messages.delete(other, 1, number + 1)
            made.append(f"edited {number}")

    backend.catalog.applications.delete(family, cascade=True)
    CascadeDeleter(backend.log, backend.database, backend.routing, step=step).delete_all()
    assert len(made) > 5
    assert list(stored(backend, other).values()) == made
    assert rows(backend)["chat"] == 1


@pytest.mark.usefixtures("small_steps")
def test_concurrent_cascades_delete_each_row_once(backend: Backend, family: str) -> None:
    """Each of them ends when nothing is left."""
    backend.catalog.applications.delete(family, cascade=True)
    with ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(lambda: sum(backend.cascade_deleter.delete(Parent(family))))
            for _ in range(4)
        ]
        assert sum(done.result() for done in work) == 40
    assert rows(backend) == {"chat": 0, "message": 0}


@pytest.mark.usefixtures("small_steps")
def test_a_cascade_can_be_stopped_between_two_transactions(backend: Backend, family: str) -> None:
    """A worker does so at SIGTERM; the next run deletes the rest."""
    backend.catalog.applications.delete(family, cascade=True)
    first = next(backend.cascade_deleter.delete(Parent(family)))
    backend.cascade_deleter.stop()
    assert backend.cascade_deleter.delete_all() == 0
    assert rows(backend)["message"] == 40 - first
    assert CascadeDeleter(backend.log, backend.database, backend.routing).delete_all() == 40 - first


def test_a_restored_log_does_not_restore_what_a_cascade_has_deleted(
    backend: Backend, family: str
) -> None:
    """An old copy of Redis has a log that names chats without a row: the drain skips them."""
    assert isinstance(backend.log.redis, redis.Redis)
    send(backend, family, "once more", chat=2)
    backend.acceptor.accept(AcceptRequest.chats(family))
    send(backend, family, "to a new one", chat=4)
    backend.acceptor.accept(AcceptRequest.deletion(family, cascade=True))
    copy = copy_redis(backend.log.redis)
    backend.drainer.drain_all()
    backend.cascade_deleter.delete_all()
    bring_back(backend.log.redis, copy)
    plant_epoch(backend.log, backend.counters.shard(family), server="0" * 40)
    backend.drainer.drain_all()
    assert rows(backend) == {"chat": 0, "message": 0}
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0
    with pytest.raises(NotFound):
        send(backend, family, "late", chat=4)


# -- the race -----------------------------------------------------------------------------------------

OPERATIONS = 500  # of each of the racers
RACERS = 4


@dataclass
class Record:
    """What was answered, and which cascades were requested."""

    texts: dict[tuple[str, int], dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    doomed: set[Parent] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def race(backend: Backend, tokens: list[str], record: Record, seed: str) -> None:
    """Create and delete at random, as fast as possible."""
    dice = random.Random(seed)
    for n in range(OPERATIONS):
        token = dice.choice(tokens)
        with backend.database.connect() as connection:
            statement = "SELECT coalesce(max(number), 0) FROM chat"
            highest = int(connection.scalar(text(statement)) or 0)
        parent = Parent(token, dice.randint(max(1, highest - 5), highest + 1))
        assert parent.chat
        with suppress(InstaChatError):
            match dice.random():
                case x if x < 0.25:
                    backend.acceptor.accept(AcceptRequest.chats(token))
                case x if x < 0.65:
                    given = backend.acceptor.accept(
                        AcceptRequest.messages(token, parent.chat, [f"{seed} {n}"])
                    )
                    with record.lock:
                        record.texts[token, parent.chat][given.first] = f"{seed} {n}"
                case x if x < 0.85:
                    backend.acceptor.accept(AcceptRequest.deletion(token, parent.chat))
                case x if x < 0.995 or token == tokens[0]:
                    with record.lock:
                        record.doomed.add(parent)
                    backend.acceptor.accept(
                        AcceptRequest.deletion(token, parent.chat, cascade=True)
                    )
                case _:
                    with record.lock:
                        record.doomed.add(Parent(token))
                    backend.acceptor.accept(AcceptRequest.deletion(token, cascade=True))


def test_creations_racing_with_deletions_leave_a_consistent_installation(backend: Backend) -> None:
    """Nothing is left under a tombstone, counts are exact, and no chat stays closed.

    Every answered message is stored, unless a cascade was requested for its parent.
    """
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(3)]
    record = Record()
    with (
        repeating(backend.drainer.drain_all, backend.cascade_deleter.delete_all),
        ThreadPoolExecutor(RACERS) as pool,
    ):
        for racer in [pool.submit(race, backend, tokens, record, f"{n}") for n in range(RACERS)]:
            racer.result()
    backend.drainer.drain_all()
    backend.cascade_deleter.delete_all()

    orphans = """
        SELECT count(*) FROM message m WHERE NOT EXISTS (
            SELECT FROM chat c JOIN application a ON a.id = c.application_id
            WHERE c.id = m.chat_id AND c.state = 'stored' AND a.removed_at IS NULL)"""
    assert scalar(backend, orphans) == 0
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0
    for (token, number), texts in record.texts.items():
        if not record.doomed & {Parent(token), Parent(token, number)}:
            assert texts.items() <= stored(backend, token, number).items()
    chats = 0
    for application in backend.catalog.applications.list():
        alive = list(backend.catalog.chats.list(application.token))
        assert application.chats_count == len(alive)
        for chat in alive:
            assert chat.messages_count == len(stored(backend, application.token, chat.number))
            assert send(backend, application.token, "open", chat=chat.number)
        chats += len(alive)
    assert chats
    assert scalar(backend, "SELECT count(*) FROM chat WHERE state = 'removed'")
