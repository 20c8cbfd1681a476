"""Engines that stop, freeze, fill up or deadlock, under load where it matters.

One rule holds for all: what was answered is stored once, and what can't be done now raises an InstaChatError,
with nothing done. The ledgers verify it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.event import listen

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, InstaChatError, LogFull, Unavailable
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.ingest.kept_log import KeptLog
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import shards
from backend.storage.redis.types import Creation
from tests.conftest import Engines
from tests.support.engines import (
    PostgresServer,
    RedisServer,
    valkey_binary,
    wheel_postgres,
)
from tests.support.faults.disk import small_disk
from tests.support.faults.load import Load, drain_completely, under_load
from tests.support.faults.shortcuts import accept_eventually, scalar, send, stored
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.ledger import Ledger
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.faults

NOTHING = EntryId(0, 0)
WAITING_COMMITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture(scope="module")
def own_engines() -> Iterator[Engines]:
    """Engines of these tests alone, to be damaged."""
    with running(PostgresServer(wheel_postgres())) as engines:
        yield engines


@contextmanager
def running(postgres: PostgresServer, *redis_options: str) -> Iterator[Engines]:
    """A PostgreSQL and a Redis, started; removed at the end."""
    redis_server = RedisServer(valkey_binary(), *redis_options)
    try:
        postgres.start()
        redis_server.start()
        yield Engines(postgres, redis_server)
    finally:
        redis_server.remove()
        postgres.remove()


# -- PostgreSQL away ----------------------------------------------------------------------------------


@contextmanager
def stopped(postgres: PostgresServer) -> Iterator[None]:
    """Stopped as `pg_ctl stop -m fast` does, and started again."""
    postgres.stop()
    yield
    postgres.start()


@contextmanager
def killed(postgres: PostgresServer) -> Iterator[None]:
    """A power failure and a recovery."""
    postgres.send_all(signal.SIGKILL)
    assert postgres.process
    postgres.process.wait()
    yield
    postgres.start()


@contextmanager
def frozen(postgres: PostgresServer) -> Iterator[None]:
    """It accepts no packet and refuses none."""
    postgres.send_all(signal.SIGSTOP)
    yield
    postgres.send_all(signal.SIGCONT)


@pytest.mark.parametrize("away", [stopped, killed, frozen])
def test_accepting_continues_under_load_while_postgresql_is_unreachable(
    own_engines: Engines,
    tmp_path: Path,
    away: Callable[[PostgresServer], AbstractContextManager[None]],
) -> None:
    """Once it is back, every answered message is stored once."""
    with under_load(own_engines.settings(), tmp_path) as load:
        load.work()
        load.work()
        wait_until(
            lambda: heartbeats(load) == 2
        )  # a worker that starts while PostgreSQL is away reports that, and ends
        load.write(processes=2, writers=4)
        for _ in range(2):
            load.wait_for_answers(200)
            with away(own_engines.postgres):
                load.wait_for_answers(200)
        load.wait_for_answers(200)
        result = load.finish()
        assert result.answered > 1000
        assert not result.faults
        assert not load.refusals


def heartbeats(load: Load) -> int:
    """How many workers have sent heartbeats."""
    with redis.Redis.from_url(str(load.settings.redis_url)) as client:
        return int(client.zcard("instachat:workers"))


# -- a drain that is stopped --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["rows", "copy"])
def test_a_drain_suspended_in_its_transaction_is_replaced_without_duplicates(
    own_engines: Engines, tmp_path: Path, where: str
) -> None:
    """SIGSTOP comes after the rows or in COPY. Another drain takes over; later the first one continues."""
    settings = own_engines.settings()
    with under_load(settings, tmp_path) as load, open_backend(settings) as backend:
        load.write(processes=1, writers=4)
        book = Ledger(tmp_path / "ledger-of-the-test")
        token = load.tokens[0]
        shard = backend.counters.shard(token)
        for n in range(8):
            texts = [f"{n} {i}" for i in range(1000)]
            book.record_answer(token, 1, send(backend, token, *texts), texts)
        with asleep(settings, where) as sleeper:
            if where == "copy":
                statement = "SELECT sum(tuples_processed) FROM pg_stat_progress_copy"
                wait_until(lambda: int(str(scalar(backend, statement) or 0)) > 0)
            epochs = Epochs(backend.log, backend.database)
            drainer = Drainer(backend.log, backend.database, epochs, stuck_timeout_seconds=0.5)
            assert drainer.drain(shard) == 0, "the sleeper holds the shard"
            wait_until(lambda: drainer.drain(shard))
            assert len(stored(backend, token)) >= 8000
            sleeper.send_signal(signal.SIGCONT)
            _, end = backend.log.read_issued(shard, [])
            wait_until(
                lambda: cursor(backend, shard) >= end
            )  # it continues, and no other process drains
            result = load.finish()
        assert result.answered > 8000
        assert not result.faults
        assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0


def cursor(backend: Backend, shard: int) -> EntryId:
    """A shard's cursor."""
    with backend.database.connect() as connection:
        return shards.shard_state(connection, shard)[1]


@contextmanager
def asleep(settings: Settings, where: str) -> Iterator[ForkedProcess]:
    """A drain that has stopped itself."""
    urls = (settings.database_url, settings.redis_url)
    sleeper = start_module("tests.support.faults.sleeper", *urls, where, environment=os.environ)
    try:
        process = psutil.Process(sleeper.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        yield sleeper
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_drain_that_waits_for_a_standby_is_not_ended(own_engines: Engines) -> None:
    """To end it would show what no standby has. Others wait with it."""
    with open_backend(own_engines.settings()) as backend:
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        backend.drainer.drain_all()
        shard = backend.counters.shard(token)
        drain = threading.Thread(target=backend.drainer.drain, args=[shard])
        with standby_missing(own_engines.postgres):
            send(backend, token, "a")
            drain.start()
            wait_until(lambda: scalar(backend, WAITING_COMMITS))
            epochs = Epochs(backend.log, backend.database)
            impatient = Drainer(backend.log, backend.database, epochs, stuck_timeout_seconds=0)
            assert [impatient.drain(shard) for _ in range(3)] == [0, 0, 0]
            assert stored(backend, token) == {}
        drain.join()
        assert stored(backend, token) == {1: "a"}


def commits_wait(postgres: PostgresServer) -> bool:
    """Whether a commit waits for a standby: PostgreSQL's checkpointer takes it up after a reload."""
    with closing(psycopg2.connect(postgres.direct_url())) as connection:
        connection.autocommit = True
        write = "SELECT pg_logical_emit_message(true, '', '')"
        commit = threading.Thread(target=connection.cursor().execute, args=[write])
        commit.start()
        wait_until(lambda: not commit.is_alive() or postgres.query(WAITING_COMMITS))
        is_waiting = commit.is_alive()
        connection.cancel()
        commit.join()
    return is_waiting


@contextmanager
def standby_missing(postgres: PostgresServer) -> Iterator[None]:
    """Have commits wait for a standby that does not exist."""
    postgres.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    postgres.execute("SELECT pg_reload_conf()")
    wait_until(lambda: commits_wait(postgres))
    try:
        yield
    finally:
        postgres.execute("ALTER SYSTEM RESET synchronous_standby_names")
        postgres.execute("SELECT pg_reload_conf()")


def test_a_drain_stores_messages_that_arrive_before_it_unlocks_the_shard(
    backend: Backend, chat: str
) -> None:
    """A drain that was requested meanwhile has found the shard locked, so the holder looks again."""
    shard = backend.counters.shard(chat)
    late = ["while it read", "while it stored", "after the commit"]

    def step(name: str) -> None:
        if late and name in ("read", "rows", "committed"):
            send(backend, chat, late.pop(0))

    send(backend, chat, "first")
    epochs = Epochs(backend.log, backend.database)
    Drainer(backend.log, backend.database, epochs, step=step).drain(shard)
    assert len(stored(backend, chat)) == 4


def test_redis_does_not_begin_an_epoch_that_sql_could_not_commit(
    backend: Backend, chat: str
) -> None:
    """SQL could begin an epoch with the same number again."""
    shard = backend.counters.shard(chat)
    with backend.database.begin() as tx:
        tx.execute(
            text(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE 'no commit' USING ERRCODE = 'disk_full'; END $$;
                CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON shard
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
                """
            )
        )
    backend.log.redis.delete(backend.log.key(shard, "epoch"))
    with pytest.raises(EngineDown, match="no commit"):
        send(backend, chat, "a")
    assert backend.log.probe(shard).status == "none"
    with backend.database.begin() as tx:
        tx.execute(text("DROP TRIGGER refuse ON shard"))
    assert send(backend, chat, "a") == 1


# -- locks --------------------------------------------------------------------------------------------

COPYING = "LOCK TABLE message IN EXCLUSIVE MODE"
SIFTING = "SELECT FROM chat FOR UPDATE"


@pytest.mark.parametrize("held", [COPYING, SIFTING])
@pytest.mark.parametrize(
    "limit", ["deadlock_timeout = '2s'", "lock_timeout = '50ms'", "statement_timeout = '50ms'"]
)
def test_lock_and_time_out_errors_make_no_dead_letter(
    backend: Backend, chat: str, held: str, limit: str
) -> None:
    """They roll back the drain, in COPY or while it sorts out invalid rows; the next one stores all."""
    need_sessions()  # the setting is that of new ones
    shard = backend.counters.shard(chat)
    send(backend, chat, "good")
    poison = Creation("messages", Parent(chat, 1), pack_messages(chat, 1, ["bad\0", "good again"]))
    backend.log.accept(shard, [poison], NOTHING)
    name = scalar(backend, "SELECT current_database()")
    with psycopg2.connect(backend.settings.database_url) as other:
        with other.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} SET {limit}")
        other.commit()
        backend.database.engine.dispose()
        with other.cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '60s'")
            cursor.execute(held)
            failures: list[BaseException] = []
            drain = threading.Thread(target=lambda: failures.append(failure(backend, shard)))
            drain.start()
            if "deadlock" in limit:
                wait_until(
                    lambda: scalar(
                        backend,
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND application_name LIKE 'instachat drain%'",
                    )
                )
                cursor.execute("UPDATE shard SET dropped = dropped WHERE number = %s", [shard])
            drain.join()
            other.rollback()
    assert [type(error) for error in failures] == [Unavailable]
    assert scalar(backend, "SELECT count(*) FROM message") == 0
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0
    backend.database.engine.dispose()
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "good", 3: "good again"}
    assert scalar(backend, "SELECT string_agg(reason, '') FROM dead_letter LIMIT 2") == (
        "can't be stored: the text of a message has a NUL at position 4, which can't be stored"
    )


def failure(backend: Backend, shard: int) -> BaseException:
    """The error that ends a drain."""
    try:
        backend.drainer.drain(shard)
    except BaseException as error:  # noqa: BLE001
        return error
    return AssertionError("it was stored")


def test_a_drain_that_postgresql_ends_for_idling_is_repeated_by_the_next(
    backend: Backend, chat: str
) -> None:
    """Many installations set idle_in_transaction_session_timeout; a slow Redis makes a drain idle."""
    need_sessions()  # the setting is that of new ones
    send(backend, chat, "a")
    with backend.database.begin() as tx:
        tx.execute(
            text(
                f"ALTER DATABASE {tx.scalar(text('SELECT current_database()'))}"
                " SET idle_in_transaction_session_timeout = '50ms'"
            )
        )
    backend.database.engine.dispose()
    epochs = Epochs(backend.log, backend.database)
    slow = Drainer(backend.log, backend.database, epochs, step=lambda _: time.sleep(0.2))
    with pytest.raises(EngineDown):
        slow.drain(backend.counters.shard(chat))
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "a"}


def test_one_invalid_message_costs_a_batch_few_extra_statements(
    backend: Backend, chat: str
) -> None:
    """If the batch took a minute, each drain would end the one before as stuck."""
    shard = backend.counters.shard(chat)
    statements: list[object] = []
    listen(backend.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    listen(backend.database.engine, "savepoint", lambda *a: statements.append(a[1]))
    asked = []
    for poisoned in (False, True):
        for _ in range(30):
            send(backend, chat, *["x"] * 1000)
        if poisoned:
            bad = Creation("messages", Parent(chat, 1), pack_messages(chat, 1, ["bad\0"]))
            backend.log.accept(shard, [bad], NOTHING)
        statements.clear()
        backend.drainer.drain(shard)
        asked.append(len(statements))
    assert len(stored(backend, chat)) == 60_000
    assert 0 < asked[1] < asked[0] + 50  # and not one for each of 30,000 messages


# -- full disks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wal", [False, True])
def test_no_message_is_lost_while_the_disk_of_postgresql_is_full(wal: bool) -> None:
    """Accepting continues. PostgreSQL stops if its WAL finds no room; once it is restarted, all is stored."""
    with small_disk(200) as disk, ExitStack() as stack:
        folder = disk.folder / "postgres"
        folder.mkdir()
        engines = stack.enter_context(running(PostgresServer(wheel_postgres(), folder)))
        backend = stack.enter_context(open_backend(engines.settings()))
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        backend.drainer.drain_all()
        disk.fill()
        if wal:
            with pytest.raises(psycopg2.Error):
                use_up_the_wal(engines.postgres)
        sent: dict[int, str] = {}
        for n in range(10):
            texts = [f"{n} {i}".ljust(500) for i in range(1000)]
            sent |= dict(enumerate(texts, send(backend, token, *texts)))
            with suppress(InstaChatError):
                backend.drainer.drain_all()
        with pytest.raises(EngineDown):
            backend.drainer.drain_all()
        assert len(sent) == 10_000
        disk.free()
        if wal:
            engines.postgres.stop(signal.SIGQUIT)
            engines.postgres.start()
        drain_completely(backend)
        assert stored(backend, token) == sent
        assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0


def use_up_the_wal(postgres: PostgresServer) -> None:
    """Make it need a new WAL segment, which stops it on a full disk."""
    for _ in range(10):
        postgres.execute("SELECT pg_switch_wal()")
        postgres.execute("SELECT pg_logical_emit_message(false, 'x', 'x')")


@pytest.mark.parametrize("durability", ["strict", "fast"])
def test_no_answered_message_is_lost_while_the_disk_of_redis_is_full(
    engines: Engines, durability: str
) -> None:
    """Redis ends under `strict` and answers MISCONF under `fast`: an answered number is on disk.

    Once there is room, numbers continue after the last answered one.
    """
    fsync = "always" if durability == "strict" else "everysec"
    with small_disk(16) as disk, ExitStack() as stack:
        folder = disk.folder / "redis"
        folder.mkdir()
        server = RedisServer(valkey_binary(), "--appendfsync", fsync, folder=folder)
        stack.callback(server.remove)
        server.start()
        settings = engines.settings().model_copy(update={"redis_url": server.url})
        backend = stack.enter_context(open_backend(settings))
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        disk.fill()
        sent: dict[int, str] = {}
        with suppress(Unavailable):
            while len(sent) < 50_000:
                texts = [f"{len(sent)} {i}".ljust(100) for i in range(100)]
                sent |= dict(enumerate(texts, send(backend, token, *texts)))
        with pytest.raises(Unavailable):
            send(backend, token, "refused, too")
        disk.free()
        if durability == "strict":
            assert server.process
            server.process.wait(PATIENCE_SECONDS)
            server.start()
        wait_until(
            lambda: (
                backend.drainer.drain_all()
                or not backend.log.waiting(backend.database.installation.shards)
            )
        )
        found = stored(backend, token)
        assert sent.items() <= found.items()
        assert len(found) <= len(sent) + 100, "more than what was not answered"
        assert accept_eventually(backend, token, "room again") == len(found) + 1


# -- full memory --------------------------------------------------------------------------------------


def test_a_redis_at_its_memory_limit_accepts_again_once_a_worker_has_drained_it(
    own_engines: Engines, tmp_path: Path
) -> None:
    """No byte is free, so neither a job nor a heartbeat can be written; the worker drains all the same."""
    settings = own_engines.settings()
    client = own_engines.redis.client()
    with under_load(settings, tmp_path, applications=3) as load:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", used + 24 * 1024 * 1024)
        try:
            load.write(processes=2, writers=4, batch=20, size=2000)
            wait_until(
                lambda: client.info("memory")["used_memory"] > 0.86 * (used + 24 * 1024 * 1024)
            )
            with suppress(redis.exceptions.OutOfMemoryError):
                while client.append("filler", "x" * 4096):
                    """Another program fills the remaining memory."""
            full = load.answered
            load.work()
            load.wait_for_answers(500)
            assert load.answered > full
            result = load.finish()
        finally:
            client.config_set("maxmemory", 0)
        assert not result.faults
        assert load.refusals["LogFull"]
        assert load.refusals.keys() <= {"LogFull"}


def test_a_redis_that_restarts_above_its_memory_limit_can_be_drained(
    engines: Engines, own_redis: RedisServer
) -> None:
    """A new epoch must be written before the log can be read; draining, and then a sweep, frees memory."""
    settings = engines.settings().model_copy(update={"redis_url": own_redis.url})
    with open_backend(settings) as backend:
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        for _ in range(20):
            send(backend, token, *["x" * 1000] * 100)
        own_redis.command += ["--maxmemory", str(2 * 1024 * 1024)]
        own_redis.kill()
        own_redis.start()
        with pytest.raises(LogFull):
            send(backend, token, "too much")
        assert backend.catalog.applications.get(token).chats_count == 1
        backend.drainer.drain_all()
        # As a worker does: it keeps nothing where memory is short. The command's own has trimmed just now.
        KeptLog(backend.log, backend.database, memory_share=0.2).trim_all()
        assert accept_eventually(backend, token, "room again") == 2001
