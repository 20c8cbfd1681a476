"""Copies restored by hand, values of other programs, and commands that Redis refuses.

None of these stops a shard for good, issues a number twice, or shows the caller an error message of Lua.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import redis

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, Failed, InstaChatError, LogFull
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.redis.accept_async import AsyncAcceptClient
from backend.storage.redis.log import Log
from backend.storage.redis.types import Creation, DrainedLog, ShardBatch, StaleEpoch
from backend.storage.redis.workers import Workers
from tests.support.accepting import accept_each
from tests.support.engines import RedisServer, redis_binary, valkey_binary
from tests.support.faults.shortcuts import accept_eventually, scalar, send, stored
from tests.support.redis_copy import bring_back, copy_redis
from tests.support.redis_values import plant_counter, plant_epoch
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

NOTHING = EntryId(0, 0)


def redis_of(backend: Backend) -> "redis.Redis":
    assert isinstance(backend.log.redis, redis.Redis)
    return backend.log.redis


# -- restored copies and foreign entries --------------------------------------------------------------


@contextmanager
def put_back(backend: Backend) -> Iterator[None]:
    """Restore Redis's current data at the end, in the same running server."""
    client = redis_of(backend)
    copy = copy_redis(client)
    yield
    bring_back(client, copy)


def test_a_new_process_detects_a_copy_restored_into_a_running_server(settings: Settings) -> None:
    """The epoch of the copy looks current, but SQL's cursor is beyond the end of the copy's log."""
    with open_backend(settings) as backend:
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        send(backend, token, "a")
        backend.drainer.drain_all()
        with put_back(backend):
            send(backend, token, "b", "c")
            send(backend, token, "d")
            backend.drainer.drain_all()
    with open_backend(settings) as backend:
        assert send(backend, token, "e") == 5
        backend.drainer.drain_all()
        assert list(stored(backend, token).values()) == list("abcde")


def test_a_worker_detects_a_copy_restored_into_a_running_server(settings: Settings) -> None:
    """A drain begins a new epoch; entries of the old one would be below the cursor and never be stored."""
    with open_backend(settings) as backend, open_backend(settings) as old:
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        old.acceptor.accept(AcceptRequest.messages(token, 1, ["a"]))  # knows no more than the copy
        with put_back(backend):
            send(backend, token, "b", "c")
            backend.drainer.drain_all()
        with open_backend(settings) as worker:
            worker.drainer.drain_all()
        assert send(old, token, "d") == 4
        backend.drainer.drain_all()
        assert list(stored(backend, token).values()) == list("abcd")


def test_a_chat_whose_deletion_was_refused_opens_again(backend: Backend, chat: str) -> None:
    """In a restored copy the chat is closed, but the log has no event of the deletion, which SQL refused."""
    send(backend, chat, "a")
    deletion = backend.acceptor.accept(AcceptRequest.deletion(chat, 1))
    backend.drainer.drain_all()
    plant_counter(backend.log, deletion.shard, Parent(chat, 1), closed=deletion.entry)
    assert accept_eventually(backend, chat, "b") == 2


@pytest.mark.parametrize("entry", ["*", "9-9", "1-999"])
def test_foreign_entries_in_the_log_stop_neither_accept_nor_drain(
    backend: Backend, chat: str, entry: str
) -> None:
    """An XADD by hand puts the log ahead of its epoch, in which nothing could be appended any more."""
    shard = backend.counters.shard(chat)
    send(backend, chat, "a")
    redis_of(backend).xadd(backend.log.key(shard, "log"), {"e": "foreign"}, id=entry)
    assert send(backend, chat, "b") == 2
    redis_of(backend).xadd(backend.log.key(shard, "log"), {"e": "foreign"}, id="*")
    backend.drainer.drain_all()
    assert send(backend, chat, "c") == 3
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "a", 2: "b", 3: "c"}
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 2


@pytest.mark.parametrize(
    "field",
    [
        '0 1 ["m","{}",1,["x"]]',
        '99999999999999999999 1 ["m","{}",1,["x"]]',
        '5 1 ["m","{}",99999999999999999999,["x"]]',
        '5 1 ["c","{}",1000000000]',
        '0 1 ["c","{}",1]',
        '99999999999999999999 1 ["c","{}",1]',
        '5 1 ["d","{}",99999999999999999999]',
    ],
)
def test_an_entry_with_an_impossible_number_becomes_a_dead_letter(
    backend: Backend, chat: str, field: str
) -> None:
    """PostgreSQL would reject it each time, and the shard could never be drained."""
    shard = backend.counters.shard(chat)
    _, end = backend.log.read_issued(shard, [])
    entry = f"{end.epoch}-{end.sequence + 1}"
    redis_of(backend).xadd(backend.log.key(shard, "log"), {"e": field.format(chat)}, id=entry)
    plant_epoch(backend.log, shard, sequence=end.sequence + 1)
    send(backend, chat, "next")
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "next"}
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 1


def test_a_foreign_value_in_place_of_a_log_stops_only_its_own_shard(backend: Backend) -> None:
    """The sweep reports the shard, and drains all others."""
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(20)]
    for token in tokens:
        backend.acceptor.accept(AcceptRequest.chats(token))
    spoilt = backend.counters.shard(tokens[0])
    redis_of(backend).set(backend.log.key(spoilt, "log"), "foreign")
    with pytest.raises(Failed, match="foreign"):
        backend.drainer.drain_all()
    for token in tokens:
        if backend.counters.shard(token) != spoilt:
            assert len(list(backend.catalog.chats.list(token))) == 1


# -- every way in which the scripts can fail ----------------------------------------------------------


def spoil_epoch_key(client: "redis.Redis", log: Log) -> None:
    client.set(log.key(0, "epoch"), "foreign")


def spoil_epoch(_: "redis.Redis", log: Log) -> None:
    plant_epoch(log, 0, epoch="many")


def spoil_sequence(_: "redis.Redis", log: Log) -> None:
    plant_epoch(log, 0, sequence="many")


def spoil_log(client: "redis.Redis", log: Log) -> None:
    client.set(log.key(0, "log"), "foreign")


def spoil_dirty(client: "redis.Redis", log: Log) -> None:
    client.set(log.key(0, "dirty"), "foreign")
    plant_counter(log, 0, CHAT, synced="clean")


def spoil_epoch_type(client: "redis.Redis", log: Log) -> None:
    client.delete(log.key(0, "epoch"))
    client.lpush(log.key(0, "epoch"), "foreign")


def spoil_counter(client: "redis.Redis", log: Log) -> None:
    client.set(log.counter_key(0, CHAT), "foreign")


def spoil_counter_type(client: "redis.Redis", log: Log) -> None:
    client.delete(log.counter_key(0, CHAT))
    client.lpush(log.counter_key(0, CHAT), "foreign")


def spoil_issued(_: "redis.Redis", log: Log) -> None:
    plant_counter(log, 0, CHAT, issued="many")


TOKEN = "t" * 32
CHAT = Parent(TOKEN, 1)

Calls = dict[str, Callable[[], object]]


def calls(log: Log) -> Calls:
    """One call of each script, and of each other command that the log or a worker sends."""
    workers = Workers(log.url)
    messages = Creation("messages", CHAT, pack_messages(TOKEN, 1, ["a"]))
    return {
        "accept": lambda: log.accept(0, [messages], NOTHING),
        "append": lambda: log.append(0, 1, b"v2 []"),
        "read": lambda: log.read(0, 1, "here", NOTHING, max_entries=9, max_bytes=999),
        "trim": lambda: log.trim(0, 1, DrainedLog(NOTHING, 0)),
        "closed_by": lambda: log.is_closed_by(0, 1, CHAT, EntryId(1, 1)),
        "reopen": lambda: log.reopen(0, 1, CHAT, EntryId(1, 1)),
        "read_issued": lambda: log.read_issued(0, [Parent(TOKEN), CHAT]),
        "probe": lambda: log.probe(0),
        "verify": lambda: log.verify(0, 1, CHAT, 0, create=False, passed=EntryId(1, 1)),
        "raise": lambda: log.raise_all(0, 1, {CHAT: 0}, create=False),
        "set_closed": lambda: log.set_closed(0, 1, {CHAT: False}),
        "read_counters": lambda: log.read_counters(0, 1, [CHAT]),
        "ack_synced": lambda: log.ack_synced(0, 1, {CHAT: None}, 1),
        "page": lambda: log.dirty_page(0, 1, 0, 9),
        "drop_counters": lambda: log.drop_counters(0, [Parent(TOKEN, 9)]),
        "issued": lambda: log.try_issued(range(16)),
        "pause": workers.pause,
        "paused": workers.paused,
        "resume": workers.resume,
        "waiting": lambda: log.waiting(range(16)),
        "dirty": lambda: log.try_count_dirty(range(16)),
        "heartbeat": lambda: workers.record_heartbeat("w"),
        "workers": workers.count,
        "remove_worker": lambda: workers.remove("w"),
        "configuration": lambda: log.configuration("appendonly"),
        "ping": log.ping,
        "set_epoch": lambda: log.set_epoch(0, 1, "here"),
    }


def refusals(log: Log) -> dict[str, type[Exception]]:
    """The calls that are refused, each with its error; fails for any unexpected error.

    Accepting from an event loop must be refused as accepting is.
    """
    found: dict[str, type[Exception]] = {}
    for name, call in ({"await": lambda: asyncio.run(awaited(log))} | calls(log)).items():
        try:
            call()
        except (InstaChatError, StaleEpoch) as error:
            found[name] = type(error)
    assert found.pop("await", None) == found.get("accept")
    return found


async def awaited(log: Log) -> None:
    """Accept a message from an event loop."""
    messages = Creation("messages", CHAT, pack_messages(TOKEN, 1, ["a"]))
    accepting = AsyncAcceptClient(log)
    try:
        (outcome,) = await accept_each(accepting, [ShardBatch(0, [messages], NOTHING)])
    finally:
        await accepting.close()
    if isinstance(outcome, Exception):
        raise outcome


@pytest.fixture(params=["valkey", "redis"])
def shard(request: pytest.FixtureRequest) -> Iterator[tuple[RedisServer, Log]]:
    """A shard in its first epoch, with one chat, on a Valkey and on a Redis of the test's own."""
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    if binary is None:
        pytest.skip("no Redis 7 on this machine: not tested on it")
    server = RedisServer(binary)
    server.start()
    log = Log(server.url)
    try:
        log.set_epoch(0, 1, "here")
        log.verify(0, 1, Parent(TOKEN), 1, create=True)
        log.verify(0, 1, CHAT, 0, create=True)
        assert not refusals(log)
        yield server, log
    finally:
        log.close()
        server.remove()


WHOLE_EPOCH = {
    "accept",
    "append",
    "read",
    "read_issued",
    "verify",
    "raise",
    "set_closed",
    "read_counters",
}


@pytest.mark.parametrize(
    ("spoil", "refused", "error"),
    [
        (spoil_epoch_key, WHOLE_EPOCH, StaleEpoch),
        (spoil_epoch, WHOLE_EPOCH, StaleEpoch),
        (spoil_sequence, WHOLE_EPOCH, StaleEpoch),
        (spoil_log, {"accept", "append", "read", "trim"}, Failed),
        (
            spoil_dirty,
            {"accept", "raise", "read_counters", "ack_synced", "page", "drop_counters"},
            Failed,
        ),
        (spoil_epoch_type, WHOLE_EPOCH, StaleEpoch),
        (spoil_counter, set(), Failed),
        (spoil_counter_type, set(), Failed),
        (spoil_issued, set(), Failed),
    ],
)
def test_a_script_reports_a_foreign_value_by_an_error_of_instachat(
    shard: tuple[RedisServer, Log],
    spoil: Callable[["redis.Redis", Log], None],
    refused: set[str],
    error: type[Exception],
) -> None:
    """No script fails with a Lua error, whatever values its keys have; a damaged epoch can be replaced."""
    server, log = shard
    spoil(server.client(), log)
    assert refusals(log) == dict.fromkeys(refused, error)
    if error is StaleEpoch:
        assert log.set_epoch(0, 2, "here")
        log.verify(0, 2, CHAT, 0, create=True)
        assert log.read_issued(0, [CHAT])[1].epoch == 2


def test_a_foreign_value_in_place_of_a_counter_is_replaced(shard: tuple[RedisServer, Log]) -> None:
    """The counter is created from SQL's numbers once the log is drained."""
    server, log = shard
    for spoil in (spoil_counter, spoil_issued):
        spoil(server.client(), log)
        assert log.read_issued(0, [CHAT])[0] == [None]
        assert log.verify(0, 1, CHAT, 7, create=False) is None
        assert log.verify(0, 1, CHAT, 7, create=True) == 7


WRITE_CALLS = {
    "append",
    "accept",
    "heartbeat",
    "set_epoch",
    "raise",
    "read",
    "remove_worker",
    "reopen",
    "set_closed",
    "trim",
    "verify",
}
WRITE_CALLS |= {"drop_counters", "pause", "ack_synced", "resume"}


@contextmanager
def no_replicas(server: RedisServer) -> Iterator[None]:
    server.client().config_set("min-replicas-to-write", 1)
    yield
    server.client().config_set("min-replicas-to-write", 0)


@contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    server.client().execute_command("REPLICAOF", "127.0.0.1", 1)
    yield
    server.client().execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    server.client().config_set("busy-reply-threshold", 50)
    looping = threading.Thread(target=loop, args=[server.client()])
    looping.start()
    wait_until(lambda: is_busy(server))
    yield
    server.client().execute_command("SCRIPT", "KILL")
    looping.join()


def is_busy(server: RedisServer) -> bool:
    """Whether a script has run for so long that Redis answers BUSY."""
    try:
        return not server.client().ping()
    except redis.exceptions.BusyLoadingError:
        raise
    except redis.ResponseError as error:
        return "BUSY" in str(error)


def loop(client: "redis.Redis") -> None:
    with pytest.raises(redis.ResponseError, match="killed"):
        client.eval("while true do end", 0)


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """Restarted, and loading its data until the end."""
    client = server.client()
    client.config_set("rdbcompression", "no")
    client.mset({f"large:{number}": "x" * 2_000 for number in range(2_500)})
    client.bgrewriteaof()  # only while it loads a snapshot it answers between two keys
    wait_until(lambda: not is_rewriting(client))
    server.kill()
    server.command += ["--key-load-delay", "20000"]  # microseconds
    server.command += ["--loading-process-events-interval-bytes", "1024"]
    with patch.object(server, "answers", lambda: is_loading(server)):
        server.start()
    yield
    server.client().config_set("key-load-delay", 0)
    wait_until(server.answers)


def is_rewriting(client: "redis.Redis") -> bool:
    found: Any = client.info("persistence")
    return bool(found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])


def is_loading(server: RedisServer) -> bool:
    try:
        server.client().ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.exceptions.ConnectionError:
        return False
    raise AssertionError("it has loaded its data already")


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    server.client().config_set("maxmemory", 1)
    yield
    server.client().config_set("maxmemory", 0)


@contextmanager
def forgetful(server: RedisServer) -> Iterator[None]:
    server.client().script_flush()
    yield


@contextmanager
def forbidding(server: RedisServer, *rules: str) -> Iterator[None]:
    server.client().execute_command("ACL", "SETUSER", "default", *rules)
    yield
    server.client().execute_command("ACL", "SETUSER", "default", "+@all", "~*")


def no_info(server: RedisServer) -> AbstractContextManager[None]:
    return forbidding(server, "-info")


def no_scripts(server: RedisServer) -> AbstractContextManager[None]:
    return forbidding(server, "-evalsha")


def no_keys(server: RedisServer) -> AbstractContextManager[None]:
    return forbidding(server, "resetkeys")


def no_append(server: RedisServer) -> AbstractContextManager[None]:
    return forbidding(server, "-xadd")


SCRIPT_CALLS = {
    "append",
    "accept",
    "set_epoch",
    "read_issued",
    "probe",
    "read",
    "reopen",
    "set_closed",
    "closed_by",
    "trim",
}
SCRIPT_CALLS |= {"raise", "verify", "read_counters", "ack_synced"}
KEY_CALLS = SCRIPT_CALLS | {
    "heartbeat",
    "dirty",
    "waiting",
    "remove_worker",
    "workers",
    "page",
    "drop_counters",
    "issued",
}
KEY_CALLS |= {"pause", "paused", "resume"}


@pytest.mark.parametrize(
    ("break_redis", "refused", "error"),
    [
        (no_replicas, {"accept", "heartbeat", "remove_worker"}, EngineDown),
        (read_only, {"accept", "heartbeat", "remove_worker"}, EngineDown),
        (busy, KEY_CALLS | {"ping"}, EngineDown),
        (loading, KEY_CALLS | {"ping"}, EngineDown),
        (full, {"accept", "heartbeat"}, LogFull),
        (forgetful, set(), EngineDown),
        (no_info, SCRIPT_CALLS - {"set_epoch"}, EngineDown),
        (no_scripts, SCRIPT_CALLS, EngineDown),
        (no_keys, KEY_CALLS, EngineDown),
        (no_append, {"accept", "append"}, EngineDown),
    ],
)
def test_a_call_that_redis_refuses_raises_an_error_of_instachat(
    shard: tuple[RedisServer, Log],
    break_redis: Callable[[RedisServer], AbstractContextManager[None]],
    refused: set[str],
    error: type[Exception],
) -> None:
    """Nothing is accepted, the error is never Unconfirmed, and no number is used up."""
    server, log = shard
    before = server.client().get(log.counter_key(0, CHAT))
    with break_redis(server):
        found = refusals(log)
    assert {name: kind for name, kind in found.items() if name in refused} == dict.fromkeys(
        refused, error
    )
    assert found.keys() - refused <= WRITE_CALLS
    if "accept" in refused:
        assert server.client().get(log.counter_key(0, CHAT)) == before
