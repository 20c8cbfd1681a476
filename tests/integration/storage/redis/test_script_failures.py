"""Each call of Redis that a script makes fails once: no number is lost track of, whichever call it is.

Redis ends a script at a call that it refuses, and takes back nothing: at a key that is not here while a slot
of a cluster moves, at a command that the user may not run. A script that is safe at every call is safe
whatever the reason.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

import pytest
import redis

from backend.domain.errors import InstaChatError
from backend.domain.events import (
    ChatsCreated,
    MessagesCreated,
    pack_chats,
    pack_deletion,
    pack_messages,
    unpack,
)
from backend.domain.model import Accepted, EntryId, Parent
from backend.storage.redis.appended import split_reply
from backend.storage.redis.keys import member_name
from backend.storage.redis.log import Log
from backend.storage.redis.script_loader import SCRIPTS, SHAS
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    CounterState,
    Creation,
    DrainedLog,
    ShardBatch,
    StaleEpoch,
)
from tests.conftest import Engines
from tests.support.redis_copy import bring_back, copy_redis
from tests.support.redis_values import plant_epoch

TOKEN = "t" * 32
APPLICATION = Parent(TOKEN)
CHAT = Parent(TOKEN, 1)
OTHER_CHAT = Parent(TOKEN, 2)
NOTHING = EntryId(0, 0)
SHARDS = (0, 1)
HIT = "the call that failed"
_FAILING = """
local redis = (function(real)
  local calls = 0
  local function next_fails(name)
    calls = calls + 1
    if calls ~= %d then return false end
    real.call('SET', '%s', name)
    return true
  end
  local failure = {err = 'ERR Script attempted to access a non local key in a cluster node'}
  return setmetatable({
    call = function(name, ...)
      if next_fails(name) then error(failure) end
      return real.call(name, ...)
    end,
    pcall = function(name, ...)
      if next_fails(name) then return failure end
      return real.pcall(name, ...)
    end,
  }, {__index = real})
end)(redis)
"""


def with_failing_call(source: str, number: int) -> str:
    """The script, whose call of that number Redis refuses."""
    flags, newline, rest = source.partition("\n") if source.startswith("#!") else ("", "", source)
    return flags + newline + _FAILING % (number, HIT) + rest


def chats(count: int = 1, **key: str) -> Creation:
    return Creation("chats", APPLICATION, pack_chats(TOKEN, count), **key)


def messages(*texts: str, chat: int = 1, **key: str) -> Creation:
    return Creation("messages", Parent(TOKEN, chat), pack_messages(TOKEN, chat, texts), **key)


def deletion(chat: int | None = None) -> Creation:
    kind = "delete-application" if chat is None else "delete-chat"
    return Creation(kind, Parent(TOKEN, chat), pack_deletion(TOKEN, chat))


@pytest.fixture(params=["engines", "oldest_engines"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Two shards in their first epoch, each with one application that has two chats with a message each."""
    engines: Engines = request.getfixturevalue(request.param)
    engines.redis.client().flushall()
    log = Log(engines.redis.url)
    for shard in SHARDS:
        log.set_epoch(shard, 1, "here")
        log.verify(shard, 1, APPLICATION, 0, create=True)
        log.accept(shard, [chats(2), messages("a"), messages("b", chat=2)], NOTHING)
        synced = {APPLICATION: 2, CHAT: 1, OTHER_CHAT: 1}
        assert log.ack_synced(shard, 1, synced, 0) == len(synced)
        plant_epoch(log, shard, notified=0)
    yield log
    log.close()


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes a script fail at its call of that number, and at no other; 0 lets it succeed."""
    sources = dict(SCRIPTS)

    def fail(script: str, number: int) -> None:
        source = with_failing_call(sources[script], number) if number else sources[script]
        monkeypatch.setitem(SCRIPTS, script, source)
        monkeypatch.setitem(SHAS, script, hashlib.sha1(source.encode()).hexdigest())

    return fail


def failures_of(
    log: Log, fail_at: Callable[[str, int], None], script: str, call: Callable[[], object]
) -> Iterator[str]:
    """Run `call` on the same data again and again; each time another call of the script fails.

    Yields the command that failed, after the failure, with the script whole again.
    """
    assert isinstance(log.redis, redis.Redis)
    start = copy_redis(log.redis)
    for number in count(1):
        bring_back(log.redis, start)
        fail_at(script, number)
        with suppress(InstaChatError, StaleEpoch, redis.ResponseError):
            call()
        fail_at(script, 0)
        failed: Any = log.redis.getdel(HIT)
        if failed is None:
            assert number > 1, "the script was not called"
            return
        yield f"call {number}, {failed.decode()}"


# -- accept -------------------------------------------------------------------------------------------

REQUESTS: Mapping[str, Mapping[int, Sequence[Creation]]] = {
    "a message": {0: [messages("c")]},
    "messages of many entries": {0: [messages("c", "d" * 70_000, "e"), messages("f", chat=2)]},
    "a chat": {0: [chats()]},
    "chats and their messages": {0: [chats(3), messages("c", chat=4), messages("d")]},
    "deletions": {0: [messages("c"), deletion(1), chats(), deletion()]},
    "idempotency keys": {
        0: [
            messages("c", key="1", body_hash="aa"),
            chats(2, key="2", body_hash="bb"),
            messages("d", key="3", body_hash="cc", chat=2),
        ]
    },
    "two shards": {
        0: [chats(), messages("c")],
        1: [messages("d", key="1", body_hash="aa"), chats()],
    },
}


class ShardState(NamedTuple):
    """The numbers that a shard has given, and what its counters say of them."""

    given: Counter[tuple[Parent, int]]
    """How often each number is in the log."""

    counters: Mapping[Parent, CounterState]
    dirty: set[str]
    end: EntryId


def state_of(log: Log, shard: int) -> ShardState:
    page = log.read(shard, 1, "here", NOTHING, max_entries=1000, max_bytes=1_000_000)
    given: Counter[tuple[Parent, int]] = Counter()
    for _, field in page.entries:
        event = unpack(field)
        if isinstance(event, ChatsCreated):
            parent, numbers = Parent(event.token), range(event.first, event.last + 1)
        elif isinstance(event, MessagesCreated):
            parent, numbers = Parent(event.token, event.chat), range(event.first, event.last + 1)
        else:
            continue
        given.update((parent, number) for number in numbers)
    parents = sorted(set(log.scan_parents([shard])), key=str)
    counters, end = log.inspect(shard, parents)
    assert end >= page.last_entry, "an id of the log would be given again"
    dirty = set(map(member_name, log.dirty_page(shard, 2**52, 0, 1000)))
    return ShardState(given, dict(zip(parents, counters, strict=True)), dirty, end)


def assert_numbers_are_kept(before: ShardState, after: ShardState, when: str) -> None:
    """Whatever was written, no number can be given twice, and no count is forgotten."""
    assert max(after.given.values()) == 1, when
    assert before.given <= after.given, when
    for parent, number in after.given:
        # Without a verified counter nothing is issued before the log is stored.
        if (counter := after.counters.get(parent)) and counter.verified:
            assert counter.issued is not None
            assert counter.issued >= number, when
    for parent, counter in before.counters.items():
        now = after.counters[parent]
        assert now.verified, when
        assert now == counter or member_name(parent) in after.dirty, when


def answers_numbers(outcome: AcceptOutcome) -> bool:
    return any(isinstance(answer, Accepted) for answer in outcome.answers)


def numbers_of(
    batches: Sequence[ShardBatch], results: Sequence[AcceptResult]
) -> dict[int, Counter[tuple[Parent, int]]]:
    """The numbers that each shard has answered with."""
    numbers: dict[int, Counter[tuple[Parent, int]]] = {batch.shard: Counter() for batch in batches}
    for batch, result in zip(batches, results, strict=True):
        if isinstance(result, Exception):
            continue
        for creation, answer in zip(batch.creations, result.answers, strict=True):
            if isinstance(answer, Accepted) and not creation.kind.startswith("delete"):
                given = range(answer.first, answer.last + 1)
                numbers[batch.shard].update((creation.parent, number) for number in given)
    return numbers


def accept_as_node(log: Log, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
    """As `accept_each`, by the call of a cluster's node, in which each command has keys of one shard only."""
    cluster = Log("redis+cluster://nowhere")  # only packs and parses
    assert isinstance(log.redis, redis.Redis)
    log.redis.script_load(SCRIPTS["accept"])
    command: Any = cluster.accept_command(batches)
    try:
        reply: Any = log.redis.execute_command(*command)
    except redis.ResponseError as error:
        return cluster.accept_results(batches, [error] * len(batches))
    return cluster.accept_results(batches, split_reply(reply))


@pytest.mark.parametrize("accept_each", [Log.accept_each, accept_as_node], ids=["alone", "node"])
@pytest.mark.parametrize("requests", REQUESTS.values(), ids=REQUESTS.keys())
def test_no_number_is_given_twice_whichever_call_of_accept_fails(
    requests: Mapping[int, Sequence[Creation]],
    accept_each: Callable[[Log, Sequence[ShardBatch]], list[AcceptResult]],
    log: Log,
    fail_at: Callable[[str, int], None],
) -> None:
    before = {shard: state_of(log, shard) for shard in requests}
    batches = [ShardBatch(shard, batch, NOTHING) for shard, batch in requests.items()]
    results: list[AcceptResult] = []

    def accept() -> None:
        results[:] = accept_each(log, batches)

    for when in failures_of(log, fail_at, "accept", accept):
        failed = {shard: state_of(log, shard) for shard in requests}
        answered = numbers_of(batches, results)
        for shard in requests:
            assert_numbers_are_kept(before[shard], failed[shard], when)
            assert answered[shard] <= failed[shard].given, when
        for result in results:
            if not isinstance(result, Exception) and answers_numbers(result):
                assert result.must_notify, when
        for shard, state in failed.items():  # as once the log is stored
            for parent, counter in state.counters.items():
                log.verify(shard, 1, parent, counter.issued or 0, create=True, passed=state.end)
            plant_epoch(log, shard, notified=0)
        repeated = numbers_of(batches, accept_each(log, batches))
        for shard in requests:
            state = state_of(log, shard)
            assert_numbers_are_kept(failed[shard], state, when)
            assert repeated[shard] <= state.given, when


@pytest.mark.parametrize("accept_each", [Log.accept_each, accept_as_node], ids=["alone", "node"])
def test_no_number_of_usual_messages_is_given_twice_whichever_call_of_accept_fails(
    accept_each: Callable[[Log, Sequence[ShardBatch]], list[AcceptResult]],
    log: Log,
    fail_at: Callable[[str, int], None],
) -> None:
    """Of chats that are dirty, while a drain is requested: then the script has a shorter way."""
    usual = {0: [messages("c"), messages("d", chat=2), messages("e")], 1: [messages("f", "g")]}
    batches = [ShardBatch(shard, batch, EntryId(1, 0)) for shard, batch in usual.items()]
    for shard in usual:
        log.accept(shard, [messages("a"), messages("b", chat=2)], NOTHING)
    before = {shard: state_of(log, shard) for shard in usual}
    results: list[AcceptResult] = []

    def accept() -> None:
        results[:] = accept_each(log, batches)

    for when in failures_of(log, fail_at, "accept", accept):
        answered = numbers_of(batches, results)
        for shard in usual:
            failed = state_of(log, shard)
            assert_numbers_are_kept(before[shard], failed, when)
            assert answered[shard] <= failed.given, when
        for shard, batch in usual.items():
            log.verify(shard, 1, CHAT, 0, create=True)
            log.accept(shard, batch, NOTHING)
            assert_numbers_are_kept(before[shard], state_of(log, shard), when)


def test_a_shard_whose_part_fails_does_not_affect_the_other(
    log: Log, fail_at: Callable[[str, int], None]
) -> None:
    batches = [ShardBatch(shard, [messages("c"), chats()], NOTHING) for shard in SHARDS]
    results: list[AcceptResult] = []

    def accept() -> None:
        results[:] = log.accept_each(batches)

    for when in failures_of(log, fail_at, "accept", accept):
        is_shared = when.endswith(("TIME", "INFO", "MGET")) or ("MSET" in when and not results)
        failed = [isinstance(result, Exception) for result in results]
        assert is_shared or sum(failed) <= 1 or when.endswith("MSET"), when


def test_a_node_reads_and_writes_each_shard_by_itself(
    log: Log, fail_at: Callable[[str, int], None]
) -> None:
    """Whatever fails but what is read of the server, the other shard is accepted."""
    batches = [ShardBatch(shard, [messages("c"), chats()], NOTHING) for shard in SHARDS]
    results: list[AcceptResult] = []

    def accept() -> None:
        results[:] = accept_as_node(log, batches)

    for when in failures_of(log, fail_at, "accept", accept):
        if not when.endswith(("TIME", "INFO")):
            assert sum(isinstance(result, Exception) for result in results) == 1, when


# -- the other scripts --------------------------------------------------------------------------------

NEW_CHAT = Parent(TOKEN, 5)
CALLS: Mapping[str, Callable[[Log], object]] = {
    "ack_synced": lambda log: log.ack_synced(0, 1, {CHAT: 1, OTHER_CHAT: 7}, 1),
    "discard_counters": lambda log: log.discard(0, 1, {CHAT: 1, OTHER_CHAT: 7}),
    "inspect_counters": lambda log: log.inspect(0, [CHAT, NEW_CHAT]),
    "probe_epoch": lambda log: log.probe(0),
    "raise_counters": lambda log: log.raise_all(
        0, 1, {CHAT: 0, OTHER_CHAT: 7, NEW_CHAT: 3}, create=True
    ),
    "read_counters": lambda log: log.read_counters(0, 1, [CHAT, NEW_CHAT]),
    "read_issued": lambda log: log.read_issued(0, [CHAT, NEW_CHAT]),
    "read_log": lambda log: log.read(0, 1, "here", NOTHING, max_entries=9, max_bytes=999),
    "reopen_counter": lambda log: log.reopen(0, 1, OTHER_CHAT, EntryId(1, 4)),
    "set_closed": lambda log: log.set_closed(0, 1, {CHAT: True, OTHER_CHAT: False}),
    "set_epoch": lambda log: log.set_epoch(0, 2, "here"),
    "trim_log": lambda log: log.trim(0, 1, DrainedLog(EntryId(1, 2), 3), max_entries=0),
    "verify_counter": lambda log: log.verify(
        0, 1, OTHER_CHAT, 0, create=True, passed=EntryId(1, 4)
    ),
}


def contents(log: Log) -> dict[str, Any]:
    """What all keys of the shard hold, without times."""
    assert isinstance(log.redis, redis.Redis)
    found: dict[str, Any] = {}
    for key in map(bytes.decode, log.redis.scan_iter(match="instachat:{0}:*")):
        kind: Any = log.redis.type(key)
        match kind:
            case b"hash":
                found[key] = log.redis.hgetall(key)
            case b"stream":
                found[key] = log.redis.xrange(key)
            case b"zset":
                found[key] = log.redis.zrange(key, 0, -1)
            case b"string":
                found[key] = log.redis.get(key)
    return found


# `count_hit` is of no log: after a failure it may have counted a hit, and raises the error.
@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - {"accept", "append_event", "count_hit"}))
def test_a_script_that_failed_can_be_called_again(
    script: str, log: Log, fail_at: Callable[[str, int], None]
) -> None:
    """It says that it failed, has lowered no counter, and then does what it would have done."""
    log.accept(0, [deletion(2), messages("c")], NOTHING)  # entry 1-4 closes the chat
    assert isinstance(log.redis, redis.Redis)
    start = copy_redis(log.redis)
    counters = {parent: counter.issued for parent, counter in state_of(log, 0).counters.items()}
    call, results = CALLS[script], list[object]()
    call(log)
    expected = contents(log)
    bring_back(log.redis, start)
    for when in failures_of(log, fail_at, script, lambda: results.append(call(log))):
        assert not results, f"{when}: the script has taken the error for a value"
        found, _ = log.inspect(0, list(counters))
        if script != "discard_counters":
            for parent, counter in zip(counters, found, strict=True):
                assert (counter.issued or 0) >= (counters[parent] or 0), f"{when}: {parent}"
        call(log)
        assert contents(log) == expected, when


def test_an_event_that_was_not_appended_is_appended_in_this_epoch_or_the_next(
    log: Log, fail_at: Callable[[str, int], None]
) -> None:
    """A failure behind the append leaves the log ahead, which only a new epoch resolves."""
    for when in failures_of(log, fail_at, "append_event", lambda: log.append(0, 1, b"v2 []")):
        try:
            entry, _ = log.append(0, 1, b"v2 []")
        except StaleEpoch:
            log.set_epoch(0, 2, "here")
            entry, _ = log.append(0, 2, b"v2 []")
        page = log.read(0, entry.epoch, "here", NOTHING, max_entries=9, max_bytes=999)
        assert page.last_entry == entry == page.end, when
