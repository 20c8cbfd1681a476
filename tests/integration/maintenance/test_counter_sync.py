"""sync-counters: SQL's counts follow the counters in Redis, although processes end and others write."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import redis
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.model import Parent
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest
from backend.maintenance.counter_sync import CounterSync, WrittenCount
from tests.support.faults.killed import Killed
from tests.support.faults.shortcuts import scalar, send
from tests.support.redis_copy import bring_back, copy_redis
from tests.support.redis_values import count_dirty, plant_epoch

pytestmark = pytest.mark.faults
LITTLE = 1800  # seconds: more than a test takes, and less than what it says has passed


def sync(backend: Backend, **how: bool) -> dict[Parent, tuple[int, int]]:
    """What one sync wrote: old and new counts."""
    return {count.parent: (count.old, count.new) for count in backend.counter_sync.sync(**how)}


def differing(backend: Backend) -> list[tuple[str, int | None]]:
    """The parents whose count in SQL differs from the live one."""
    with backend.database.connect() as connection:
        apps = connection.execute(text("SELECT token, chats_count FROM application")).all()
        chats = connection.execute(
            text(
                "SELECT a.token, c.number, c.messages_count FROM chat c"
                " JOIN application a ON a.id = c.application_id WHERE c.state = 'stored'"
            )
        ).all()
    wrong: list[tuple[str, int | None]] = []
    for token, count in apps:
        if backend.catalog.applications.get(token).chats_count != count:
            wrong.append((token, None))
    for token, number, count in chats:
        if getattr(backend.catalog.chats.get(token, number), "messages_count", None) != count:
            wrong.append((token, number))
    return wrong


def waiting(backend: Backend) -> int:
    """How many parents have a count that SQL does not know."""
    return count_dirty(backend)


def with_steps(backend: Backend, step: Callable[[str], None]) -> CounterSync:
    """A sync that reports its steps."""
    epochs = Epochs(backend.log, backend.database)
    return CounterSync(backend.log, backend.database, epochs, backend.routing, step=step)


def make_older(backend: Backend, seconds: int) -> None:
    """Make every dirty parent that much older."""
    assert isinstance(backend.log.redis, redis.Redis)
    for shard in backend.database.installation.shards:
        key = backend.log.key(shard, "dirty")
        for name in backend.log.redis.zrange(key, 0, -1):
            backend.log.redis.zincrby(key, -seconds * 1e6, name)  # type: ignore[arg-type]


def test_a_sync_writes_each_changed_count_once(backend: Backend, chat: str) -> None:
    """It reports the old and the new count. A deletion is counted in SQL without a sync."""
    send(backend, chat, "a", "b", "c")
    backend.drainer.drain_all()
    backend.catalog.messages.delete(chat, 1, 2)
    assert sync(backend) == {Parent(chat): (0, 1), Parent(chat, 1): (0, 2)}
    assert (sync(backend), waiting(backend), differing(backend)) == ({}, 0, [])
    backend.catalog.messages.delete(chat, 1, 3)
    assert differing(backend) == []
    send(backend, chat, "d")
    backend.drainer.drain_all()
    assert sync(backend) == {Parent(chat, 1): (1, 2)}


def test_a_change_during_a_sync_is_written_by_the_next_one(backend: Backend, chat: str) -> None:
    """The change comes between the read and the write, or between the write and the release."""
    sync(backend)
    for moment in ("read", "written"):
        send(backend, chat, "before")
        late = [moment]

        def step(name: str, late: list[str] = late) -> None:
            if name in late:
                late.remove(name)
                send(backend, chat, "meanwhile")

        list(with_steps(backend, step).sync())
        assert waiting(backend) == 1
        assert differing(backend) == [(chat, 1)]
        assert backend.counter_sync.lag() < LITTLE
        sync(backend)
        assert (waiting(backend), differing(backend)) == (0, [])


@pytest.mark.parametrize("where", ["read", "written", "released"])
def test_a_sync_killed_at_a_named_step_loses_no_change(
    backend: Backend, chat: str, where: str
) -> None:
    """The next sync writes what is left. This also holds for the first one, which compares everything."""
    others = [backend.catalog.applications.create(f"{n}").token for n in range(4)]
    for token in others:
        backend.acceptor.accept(AcceptRequest.chats(token, 3))
    backend.drainer.drain_all()

    def step(name: str) -> None:
        if name == where:
            raise Killed

    for n in range(2):
        send(backend, chat, f"{n}")
        send(backend, others[n], f"{n}")
        with suppress(Killed):
            list(with_steps(backend, step).sync())
        sync(backend)
        assert (waiting(backend), differing(backend)) == (0, [])


def test_concurrent_syncs_and_writers_end_with_correct_counts(backend: Backend, chat: str) -> None:
    """No sync fails, no count falls, and at the end SQL has every count."""
    backend.acceptor.accept(AcceptRequest.chats(chat, 40))
    backend.drainer.drain_all()
    given: list[WrittenCount] = []

    def write(n: int) -> None:
        for _ in range(60):
            send(backend, chat, "x", chat=n % 41 + 1)
            n += 7

    def again() -> None:
        for n in range(8):
            given.extend(backend.counter_sync.sync(everything=n % 2 == 0))

    with ThreadPoolExecutor(6) as pool:
        for done in [
            *(pool.submit(write, n) for n in range(3)),
            *(pool.submit(again) for _ in "12"),
        ]:
            done.result()
    assert all(count.old < count.new for count in given)
    backend.drainer.drain_all()
    sync(backend)
    assert (waiting(backend), differing(backend)) == (0, [])


def test_the_first_sync_of_an_epoch_compares_every_parent(backend: Backend, chat: str) -> None:
    """A wiped Redis or an old copy lacks the set of dirty parents. No count in SQL falls."""
    assert isinstance(backend.log.redis, redis.Redis)
    sync(backend)
    copy = copy_redis(backend.log.redis)
    send(backend, chat, "a", "b")
    backend.drainer.drain_all()
    backend.log.redis.flushall()
    assert backend.counter_sync.lag() > 0
    assert sync(backend) == {Parent(chat, 1): (0, 2)}
    send(backend, chat, "c")
    backend.drainer.drain_all()
    bring_back(backend.log.redis, copy)
    assert sync(backend) == {Parent(chat, 1): (2, 3)}
    backend.log.redis.delete(backend.log.counter_key(backend.counters.shard(chat), Parent(chat, 1)))
    assert sync(backend, everything=True) == {}
    assert (waiting(backend), differing(backend)) == (0, [])


def test_a_sync_writes_a_counter_that_was_restored_after_a_loss(
    backend: Backend, chat: str
) -> None:
    """The restored counter equals the highest row, which can be above the count in SQL."""
    send(backend, chat, "a", "b")
    backend.drainer.drain_all()
    shard = backend.counters.shard(chat)
    sync(backend)
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE chat SET messages_issued = 0"))
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(chat, 1)))
    assert send(backend, chat, "c") == 3
    assert sync(backend) == {Parent(chat, 1): (0, 3)}


def test_a_sync_of_everything_raises_counts_that_no_change_has_marked(
    backend: Backend, chat: str
) -> None:
    """Only `--all` finds a column that was changed by hand. It lowers none."""
    send(backend, chat, "a", "b")
    backend.drainer.drain_all()
    sync(backend)
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE chat SET messages_issued = 1"))
        tx.execute(text("UPDATE application SET chats_issued = 7"))
    assert sync(backend) == {}
    assert sync(backend, everything=True) == {Parent(chat, 1): (1, 2)}
    assert scalar(backend, "SELECT chats_issued FROM application") == 7


def test_a_parent_that_is_not_stored_yet_stays_dirty(backend: Backend, chat: str) -> None:
    """Each sync reads it once, until it is stored. A parent that is never stored is removed."""
    backend.acceptor.accept(AcceptRequest.chats(chat))
    send(backend, chat, "a", chat=2)
    assert sync(backend) == {Parent(chat): (0, 2)}
    assert waiting(backend) == 1
    backend.drainer.drain_all()
    assert sync(backend) == {Parent(chat, 2): (0, 1)}
    backend.log.redis.zadd(backend.log.key(backend.counters.shard(chat), "dirty"), {f"{chat}:9": 1})
    backend.catalog.chats.delete(chat, 1)
    assert sync(backend) == {}
    assert waiting(backend) == 0


def test_a_sync_reads_many_parents_in_several_pages(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds if some parents of each page are not stored yet, and are skipped."""
    monkeypatch.setattr("backend.maintenance.counter_sync.PAGE", 5)
    sync(backend)
    backend.acceptor.accept(AcceptRequest.chats(chat, 12))
    backend.drainer.drain_all()
    last = backend.acceptor.accept(AcceptRequest.chats(chat, 12)).last
    for number in range(2, last + 1):
        send(backend, chat, "x", chat=number)
    assert len(sync(backend)) == 1 + 12
    assert waiting(backend) == 12
    backend.drainer.drain_all()
    assert len(sync(backend)) == 12
    assert sync(backend, everything=True) == {}
    assert (waiting(backend), differing(backend)) == (0, [])


def test_the_lag_is_the_age_of_the_oldest_change_that_is_not_synced(
    backend: Backend, chat: str
) -> None:
    """It is zero if all are synced. A chat that changes constantly is behind only since its last sync."""
    sync(backend)
    assert backend.counter_sync.lag() == 0
    send(backend, chat, "a")
    make_older(backend, 7200)
    send(backend, chat, "b")
    assert 7200 <= backend.counter_sync.lag() < 7200 + LITTLE

    def meanwhile(name: str) -> None:
        if name == "read":
            send(backend, chat, "c")

    list(with_steps(backend, meanwhile).sync())
    assert 0 < backend.counter_sync.lag() < LITTLE
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE shard SET synced_at = synced_at - interval '5 hours'"))
    assert backend.counter_sync.is_due(3600)
    assert not backend.counter_sync.is_due(6 * 3600)
    plant_epoch(backend.log, backend.counters.shard(chat), server="0" * 40)
    assert 5 * 3600 <= backend.counter_sync.lag() < 5 * 3600 + LITTLE
    sync(backend)
    assert backend.counter_sync.lag() < LITTLE
    assert not backend.counter_sync.is_due(3600)


def test_a_sync_works_while_redis_has_no_free_memory(backend: Backend, chat: str) -> None:
    """It releases parents, which frees memory; none of its calls needs more."""
    client = backend.log.redis
    assert isinstance(client, redis.Redis)
    send(backend, chat, "a")
    backend.drainer.drain_all()
    try:
        client.config_set("maxmemory", 1)
        assert sync(backend) == {Parent(chat): (0, 1), Parent(chat, 1): (0, 1)}
        assert waiting(backend) == 0
    finally:
        client.config_set("maxmemory", 0)
