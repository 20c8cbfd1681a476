"""Each fence of the scripts in Redis: what it refuses, and that without it the refusal is gone.

A scenario is a function that asserts; it runs once on the scripts as they are, and once with the
fence's line cut out, where it has to fail.
"""

import hashlib
from collections.abc import Callable, Iterator

import pytest
import redis

from backend.domain.errors import Failed, InstaChatError, LogFull, Unconfirmed
from backend.domain.events import (
    MessagesCreated,
    pack_chats,
    pack_deletion,
    pack_messages,
    pack_move,
    unpack,
)
from backend.domain.model import MAX_ISSUED, Accepted, EntryId, Parent
from backend.storage.redis.log import Log
from backend.storage.redis.script_loader import SCRIPTS, SHAS
from backend.storage.redis.types import (
    AcceptOutcome,
    ApplicationMoving,
    Creation,
    DrainedLog,
    Refusal,
    StaleEpoch,
)
from tests.conftest import Engines
from tests.support.redis_copy import RedisCopy, copy_redis
from tests.support.redis_values import epoch_fields, plant_counter, plant_epoch

TOKEN = "t" * 32
APPLICATION = Parent(TOKEN)
CHAT = Parent(TOKEN, 1)
NOTHING = EntryId(0, 0)


def chats(count: int = 1, key: str = "", body: str = "") -> Creation:
    return Creation("chats", APPLICATION, pack_chats(TOKEN, count), key, body)


def messages(*texts: str, key: str = "", body: str = "", chat: int = 1) -> Creation:
    return Creation("messages", Parent(TOKEN, chat), pack_messages(TOKEN, chat, texts), key, body)


def deletion(chat: int | None = None) -> Creation:
    kind = "delete-application" if chat is None else "delete-chat"
    return Creation(kind, Parent(TOKEN, chat), pack_deletion(TOKEN, chat))


@pytest.fixture
def log(engines: Engines) -> Iterator[Log]:
    """A shard in its first epoch, with one application that has one chat."""
    engines.redis.client().flushall()
    log = Log(engines.redis.url)
    log.set_epoch(0, 1, "here")
    log.verify(0, 1, APPLICATION, 0, create=True)
    log.accept(0, [chats()], NOTHING)
    yield log
    log.close()


def everything(log: Log) -> RedisCopy:
    """All data in Redis."""
    return copy_redis(log.redis)


def refused(log: Log, *batch: Creation, known: EntryId = NOTHING) -> str:
    """The reason why the batch is refused as a whole; fails if it is accepted, or if anything changed."""
    before = everything(log)
    try:
        log.accept(0, batch, known)
    except StaleEpoch as stale:
        assert everything(log) == before
        return stale.reason
    except InstaChatError as error:
        assert everything(log) == before
        return type(error).__name__
    pytest.fail("it was accepted")


def answer(log: Log, *batch: Creation) -> Accepted | Refusal:
    """The last request's answer; a refusal must have changed nothing."""
    before = everything(log)
    answers = log.accept(0, batch, NOTHING).answers
    if len(batch) == 1 and isinstance(answers[0], Refusal):
        assert everything(log) == before
    return answers[-1]


def a_wiped_redis(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.redis.delete(log.key(0, "epoch"))
    assert refused(log, messages("a")) == "none"


def another_server(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    plant_epoch(log, 0, server="0" * 40)
    assert refused(log, messages("a")) == "other"


def a_former_primary(log: Log) -> None:
    assert refused(log, messages("a"), known=EntryId(2, 0)) == "old"


def a_log_that_went_back(log: Log) -> None:
    assert refused(log, messages("a"), known=EntryId(1, 2)) == "rewound"


def a_missing_counter(log: Log) -> None:
    assert answer(log, messages("a", chat=7)) == Refusal("counter", "chat")


def a_counter_of_an_earlier_epoch(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    plant_counter(log, 0, CHAT, epoch=0)
    assert answer(log, messages("a")) == Refusal("counter", "chat")


def a_closed_chat(log: Log) -> None:
    log.accept(0, [deletion(1)], NOTHING)
    assert answer(log, messages("a")) == Refusal("closed", "chat")


def a_chat_of_a_closed_application(log: Log) -> None:
    log.accept(0, [deletion()], NOTHING)
    assert answer(log, messages("a")) == Refusal("closed", "application")


def a_chat_closed_in_the_same_batch(log: Log) -> None:
    assert answer(log, deletion(1), messages("a")) == Refusal("closed", "chat")


def move(mark: str = "moved-1-0123") -> Creation:
    return Creation(mark, APPLICATION, pack_move(TOKEN, 1, 1))


def an_application_that_has_moved(log: Log) -> None:
    """It is closed, until it comes back by a later move. No count of it is read in the shard that it left."""
    answer(log, messages("a"))
    assert answer(log, move(), messages("b")) == Refusal("closed", "application")
    assert log.read_issued(0, [Parent(TOKEN, 1), APPLICATION])[0] == [None, None]
    assert {counter.issued for counter in log.inspect(0, [Parent(TOKEN, 1)])[0]} == {None}
    for moves in (None, 0):
        with pytest.raises(ApplicationMoving, match="moved-1-0123"):
            log.verify(0, 1, APPLICATION, 1, create=False, moves=moves)
    assert log.verify(0, 1, APPLICATION, 1, create=False, moves=2) == 1
    assert log.read_issued(0, [Parent(TOKEN, 1)])[0] == [1]


def a_full_log(log: Log) -> None:
    log.max_entries = 1
    assert refused(log, messages("a")) == LogFull.__name__


def a_foreign_log(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    log.redis.delete(log.key(0, "log"))
    log.redis.set(log.key(0, "log"), "foreign")
    assert refused(log, messages("a")) == Failed.__name__


def foreign_dirty_counters(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.redis.delete(log.key(0, "dirty"))
    log.redis.set(log.key(0, "dirty"), "foreign")
    assert refused(log, messages("a")) == Failed.__name__


def a_foreign_counter(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.redis.delete(log.counter_key(0, CHAT))
    log.redis.lpush(log.counter_key(0, CHAT), "foreign")
    assert answer(log, messages("a")) == Refusal("counter", "chat")


def a_counter_that_is_no_number(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    plant_counter(log, 0, CHAT, issued="many")
    assert answer(log, messages("a")) == Refusal("counter", "chat")


def a_foreign_idempotency_key(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.redis.set(log.key(0, "key:k"), "foreign")
    assert answer(log, messages("a", key="k", body="aa")) == Refusal("broken", "idempotency key")


def a_key_used_again(log: Log) -> None:
    first = answer(log, messages("a", key="k", body="aa"))
    assert answer(log, messages("a", key="k", body="aa")) == first
    assert answer(log, messages("b", key="k", body="bb")) == Refusal("reused")


def a_key_twice_in_a_batch(log: Log) -> None:
    same = messages("a", key="k", body="aa")
    answers = log.accept(0, [same, same, messages("b")], NOTHING).answers
    assert [(a.first, a.last) for a in answers if isinstance(a, Accepted)] == [
        (1, 1),
        (1, 1),
        (2, 2),
    ]


def a_counter_without_numbers_left(log: Log) -> None:
    """Requests of one number and of several; a deletion takes none, and is accepted."""
    log.verify(0, 1, CHAT, MAX_ISSUED, create=True)
    assert isinstance(answer(log, messages("the last one")), Accepted)
    for creation in (messages("a"), messages("a", "b", key="k", body="aa")):
        assert answer(log, creation) == Refusal("exhausted")
    plant_counter(log, 0, APPLICATION, issued=MAX_ISSUED + 1)
    assert answer(log, chats()) == Refusal("exhausted")
    assert isinstance(answer(log, deletion(1)), Accepted)


ACCEPT = "accept"
FENCES: list[tuple[Callable[[Log], None], str, str]] = [
    (a_wiped_redis, ACCEPT, "return {'stale', epoch_value and 'broken' or 'none', 0}"),
    (another_server, ACCEPT, "if find(epoch_value, this_server, rest, true) ~= rest then"),
    (a_former_primary, ACCEPT, "if epoch_number < seen_epoch then"),
    (
        a_log_that_went_back,
        ACCEPT,
        "if epoch_number == seen_epoch and sequence < seen_sequence then",
    ),
    (a_missing_counter, ACCEPT, "answer = 'counter chat'"),
    (a_counter_of_an_earlier_epoch, ACCEPT, "answer = 'counter chat'"),
    (a_closed_chat, ACCEPT, "answer = 'closed chat'"),
    (a_chat_of_a_closed_application, ACCEPT, "answer = 'closed application'"),
    (a_chat_closed_in_the_same_batch, ACCEPT, "closed = epoch .. '-' .. int(sequence)"),
    (
        a_counter_without_numbers_left,
        ACCEPT,
        "if not answer and #issued > MAX_ISSUED_DIGITS and numbers > 0 then answer = 'exhausted' end",
    ),
    (
        an_application_that_has_moved,
        ACCEPT,
        "if string.find(kind, 'moved-', 1, true) then closed = kind end",
    ),
    (an_application_that_has_moved, "read_issued", "not (moved and moved[KEYS[i]]) and "),
    (an_application_that_has_moved, "inspect_counters", "not (moved and moved[KEYS[i]]) and "),
    (
        an_application_that_has_moved,
        "verify_counter",
        " and tonumber(ARGV[6]) >= tonumber(move)",
    ),
    (a_full_log, ACCEPT, "if length >= max_entries then"),
    (
        a_foreign_log,
        ACCEPT,
        "if place_of[keys[c]] then redis.pcall('SET', keys[c], values[c]) end",
    ),
    (
        foreign_dirty_counters,
        ACCEPT,
        "if failed then return is_wrong_type(failed) and {'broken', 'dirty counters'} or failed end",
    ),
    (a_foreign_counter, ACCEPT, "answer = 'counter chat'"),
    (a_counter_that_is_no_number, ACCEPT, "answer = 'counter chat'"),
    (
        a_foreign_idempotency_key,
        ACCEPT,
        "if not earlier_hash then return 'broken idempotency key' end",
    ),
    (a_key_used_again, ACCEPT, " or 'reused'"),
    (a_key_twice_in_a_batch, ACCEPT, "answer_of[keys[k + 2]] or "),
]


def without(source: str, fence: str) -> str:
    """The script without a fence: a condition becomes false, anything else is cut."""
    assert source.count(fence) == 1, f"the fence is not in the script: {fence}"
    if fence.startswith("elseif "):
        return source.replace(fence, "elseif false then")
    if fence.startswith("if ") and fence.endswith(" then"):
        return source.replace(fence, "if false then")
    if fence.startswith("if ") and not fence.endswith(" end"):
        return source.replace(fence, "if false then return nil")
    return source.replace(fence, "")


@pytest.mark.parametrize("scenario", [scenario for scenario, _, _ in FENCES])
def test_a_fenced_script_refuses_and_changes_nothing(
    scenario: Callable[[Log], None], log: Log
) -> None:
    scenario(log)


@pytest.mark.parametrize(
    ("scenario", "script", "fence"), FENCES, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_script_without_its_fence_fails_the_scenario(
    scenario: Callable[[Log], None],
    script: str,
    fence: str,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This shows that the test above can fail."""
    broken = without(SCRIPTS[script], fence)
    monkeypatch.setitem(SCRIPTS, script, broken)
    monkeypatch.setitem(SHAS, script, hashlib.sha1(broken.encode()).hexdigest())
    with pytest.raises((AssertionError, pytest.fail.Exception, redis.ResponseError, Unconfirmed)):
        scenario(log)


# -- usual messages, which accept has a shorter way for -----------------------------------------------

SEEN = EntryId(1, 1)


def accept_usual(log: Log, *batch: Creation, known: EntryId = SEEN) -> AcceptOutcome:
    """As `accept`, in a chat that is dirty already, while a drain is requested."""
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    return log.accept(0, batch or [messages("a")], known)


def usual_refused(log: Log, known: EntryId = SEEN) -> str:
    """The reason why usual messages are refused as a whole."""
    with pytest.raises(StaleEpoch) as stale:
        accept_usual(log, known=known)
    return str(stale.value)


def usual_another_server(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    plant_epoch(log, 0, server="0" * 40)
    with pytest.raises(StaleEpoch, match="other"):
        log.accept(0, [messages("a")], SEEN)


def usual_of_a_former_primary(log: Log) -> None:
    assert usual_refused(log, EntryId(2, 0)) == "old"


def usual_after_a_log_went_back(log: Log) -> None:
    assert usual_refused(log, EntryId(1, 3)) == "rewound"


def usual_in_a_full_log(log: Log) -> None:
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    log.max_entries = 2
    with pytest.raises(LogFull):
        log.accept(0, [messages("a")], SEEN)


def usual_without_a_drain(log: Log) -> None:
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    plant_epoch(log, 0, notified=0)
    assert log.accept(0, [messages("a")], SEEN).must_notify
    assert not log.accept(0, [messages("a")], SEEN).must_notify


def usual_of_a_closed_application(log: Log) -> None:
    answers = accept_usual(log, deletion()).answers
    assert isinstance(answers[0], Accepted)
    assert log.accept(0, [messages("a")], SEEN).answers == [Refusal("closed", "application")]


def usual_of_an_application_with_a_limit(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    plant_counter(log, 0, APPLICATION, closed=f"-1:{10**17}")
    (answer,) = log.accept(0, [messages("a")], SEEN).answers
    assert isinstance(answer, Refusal)
    assert answer.reason == "limited"


def usual_of_a_closed_chat(log: Log) -> None:
    accept_usual(log, deletion(1))
    assert log.accept(0, [messages("a")], SEEN).answers == [Refusal("closed", "chat")]


def usual_of_a_counter_of_an_earlier_epoch(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    plant_counter(log, 0, CHAT, epoch=0)
    assert log.accept(0, [messages("a")], SEEN).answers == [Refusal("counter", "chat")]


def usual_without_numbers_left(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    plant_counter(log, 0, CHAT, issued=MAX_ISSUED + 1)
    assert log.accept(0, [messages("a")], SEEN).answers == [Refusal("exhausted")]


def usual_of_one_chat_twice(log: Log) -> None:
    """And behind them one that is not usual: each has numbers of its own."""
    batch = [messages("a"), messages("b", "c")]
    for unusual in ([], [messages("d", key="k", body="aa")]):
        assert isinstance(log.redis, redis.Redis)
        highest = log.inspect(0, [CHAT])[0][0].issued or 0
        answers = accept_usual(log, *batch, *unusual).answers
        firsts = [answer.first - highest for answer in answers if isinstance(answer, Accepted)]
        assert firsts == [2, 3, 5][: len(answers)]
        assert log.inspect(0, [CHAT])[0][0].issued == highest + len(answers) + 2


def usual_before_a_foreign_log(log: Log) -> None:
    assert isinstance(log.redis, redis.Redis)
    log.accept(0, [messages("the chat is dirty")], NOTHING)
    log.redis.delete(log.key(0, "log"))
    log.redis.set(log.key(0, "log"), "foreign")
    assert refused(log, messages("a"), known=SEEN) == Failed.__name__


USUAL: list[tuple[Callable[[Log], None], str, str]] = [
    (usual_another_server, "and find(epoch_value, this_server, rest, true) == rest", ""),
    (usual_of_a_former_primary, "epoch_number == batch[1]", "true"),
    (usual_after_a_log_went_back, "and sequence >= batch[2]", ""),
    (usual_in_a_full_log, "and sequence - stored < max_entries", ""),
    (usual_without_a_drain, "and created_at_number - notified < notify_again_after", ""),
    (
        usual_of_a_closed_application,
        "if not application or not find(application, open_counter) then break end",
        "",
    ),
    (usual_of_an_application_with_a_limit, "' %d+ %- '", "' %d+ %-'"),
    (usual_of_a_closed_chat, "(%d+) %- dirty$", "(%d+) %S+ dirty$"),
    (usual_of_a_counter_of_an_earlier_epoch, "'^' .. epoch .. ' (%d+)", "'^%d+ (%d+)"),
    (usual_without_numbers_left, "or #issued > MAX_SHORT_DIGITS then", "then"),
    (usual_of_one_chat_twice, "match(place and writes[place] or values[c]", "match(values[c]"),
    (usual_of_one_chat_twice, "for i = 1, done do place_of[keys[k + 2 * i]] = nil end", ""),
    (
        usual_before_a_foreign_log,
        "writes[place - 1], place_of[key], writes_end = key, place, place",
        "writes[place - 1], writes_end = key, place",
    ),
]


@pytest.mark.parametrize("scenario", dict.fromkeys(scenario for scenario, _, _ in USUAL))
def test_usual_messages_are_refused_as_all_others(
    scenario: Callable[[Log], None], log: Log
) -> None:
    scenario(log)


@pytest.mark.parametrize(
    ("scenario", "fence", "instead"), USUAL, ids=lambda v: getattr(v, "__name__", "")
)
def test_usual_messages_without_a_fence_fail_the_scenario(
    scenario: Callable[[Log], None],
    fence: str,
    instead: str,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SCRIPTS[ACCEPT].count(fence) == 1, f"the fence is not in the script: {fence}"
    broken = SCRIPTS[ACCEPT].replace(fence, instead)
    monkeypatch.setitem(SCRIPTS, ACCEPT, broken)
    monkeypatch.setitem(SHAS, ACCEPT, hashlib.sha1(broken.encode()).hexdigest())
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        scenario(log)


# -- the other scripts --------------------------------------------------------------------------------


def read(log: Log, epoch: int = 1, installation: str = "here") -> int:
    page = log.read(0, epoch, installation, NOTHING, max_entries=10, max_bytes=1000)
    return len(page.entries)


@pytest.mark.parametrize(("epoch", "installation"), [(2, "here"), (1, "elsewhere")])
def test_a_drain_reads_only_the_log_of_its_epoch_and_installation(
    log: Log, epoch: int, installation: str
) -> None:
    assert read(log) == 1
    with pytest.raises(StaleEpoch):
        read(log, epoch, installation)


def test_a_trim_of_another_epoch_removes_nothing(log: Log) -> None:
    """A drain that committed in an older epoch must not trim the log of a newer one."""
    log.trim(0, 2, DrainedLog(EntryId(9, 9), 0), max_entries=0)
    assert (log.waiting([0]), log.sizes([0])[0].entries) == (1, 1)
    log.trim(0, 1, DrainedLog(EntryId(1, 1), 0), max_entries=0)
    assert (log.waiting([0]), log.sizes([0])[0].entries) == (0, 0)


def kept(log: Log) -> int:
    return log.sizes([0])[0].entries


def test_entries_are_kept_for_a_time_after_they_are_stored(log: Log) -> None:
    """By Redis's clock, from the moment when they were stored; an entry that is not stored stays."""
    log.retention_seconds = 600
    assert log.trim(0, 1, DrainedLog(EntryId(1, 1), 1)) == 0
    log.accept(0, [messages("a")], NOTHING)
    assert log.trim(0, 1, DrainedLog(EntryId(1, 1), 1)) == 1
    assert (kept(log), log.waiting([0])) == (2, 1)
    log.retention_seconds = 0
    log.trim(0, 1, DrainedLog(EntryId(1, 1), 1))
    assert (kept(log), log.waiting([0])) == (1, 1)
    assert isinstance(log.redis, redis.Redis)
    epoch = epoch_fields(log, 0)
    assert [epoch[name] for name in ("trimmed_epoch", "trimmed", "trimmed_total")] == ["1"] * 3


def test_entries_are_deleted_up_to_a_mark_and_at_most_up_to_the_cursor(log: Log) -> None:
    """A mark behind the cursor is what a SQL has left that went back: its entries are stored again."""
    assert isinstance(log.redis, redis.Redis)
    for _ in range(4):
        log.accept(0, [messages("a")], NOTHING)
    for through in (1, 2, 4):
        log.redis.rpush(log.key(0, "marks"), f"{through} 1 {through} {through}")  # in 1970
    log.trim(0, 1, DrainedLog(EntryId(1, 3), 3))
    assert kept(log) == 3
    log.trim(0, 1, DrainedLog(EntryId(1, 5), 5))
    assert kept(log) == 1


def test_a_late_acknowledgement_takes_nothing_back(log: Log) -> None:
    """Of two drains the one that committed first may be the last to say so."""
    log.accept(0, [messages("a")], NOTHING)
    assert log.trim(0, 1, DrainedLog(EntryId(1, 2), 2)) == 0
    assert log.trim(0, 1, DrainedLog(EntryId(1, 1), 1)) == 1
    assert log.waiting([0]) == 0


def test_kept_entries_do_not_fill_the_log(log: Log) -> None:
    """Only those that are not stored count against the limit; without an acknowledgement all count."""
    for _ in range(3):
        log.accept(0, [messages("a")], NOTHING)
    log.max_entries = 4
    assert refused(log, messages("a")) == LogFull.__name__
    log.trim(0, 1, DrainedLog(EntryId(1, 4), 4))
    assert isinstance(answer(log, messages("a")), Accepted)
    assert kept(log) == 5


def test_what_was_deleted_by_hand_does_not_fill_the_log(log: Log) -> None:
    """Nothing notes that it is not in the log any more."""
    for _ in range(3):
        log.accept(0, [messages("a")], NOTHING)
    log.max_entries = 4
    assert isinstance(log.redis, redis.Redis)
    log.redis.xtrim(log.key(0, "log"), maxlen=0, approximate=False)
    assert log.waiting([0]) == 0
    assert isinstance(answer(log, messages("a")), Accepted)


def test_an_epoch_is_never_lowered(log: Log) -> None:
    """A process that writes its epoch late does not replace a newer one."""
    assert log.set_epoch(0, 3, "here")
    assert not log.set_epoch(0, 2, "here")
    assert not log.set_epoch(0, 3, "here")
    assert log.probe(0).epoch == 3


def test_a_counter_is_verified_only_in_the_epoch_of_its_numbers(log: Log) -> None:
    """Numbers that were read from SQL before a new epoch are not used in it."""
    assert log.verify(0, 1, CHAT, 5, create=False) == 5
    assert log.verify(0, 1, CHAT, 3, create=False) == 5
    log.set_epoch(0, 2, "here")
    with pytest.raises(StaleEpoch):
        log.verify(0, 1, CHAT, 9, create=False)


def test_a_missing_counter_is_created_on_request_only(log: Log) -> None:
    """Its numbers may be in the log: only a caller that has drained it may create the counter."""
    assert log.verify(0, 1, Parent(TOKEN, 2), 5, create=False) is None
    assert log.verify(0, 1, Parent(TOKEN, 2), 5, create=True) == 5


def test_a_chat_is_reopened_only_by_the_deletion_that_closed_it(log: Log) -> None:
    """The drain of an older deletion must not open a counter that a newer deletion has closed."""
    answers = log.accept(0, [deletion(1)], NOTHING).answers
    assert isinstance(answers[0], Accepted)
    assert not log.reopen(0, 1, CHAT, EntryId(1, 1))
    assert not log.reopen(0, 2, CHAT, answers[0].entry)
    assert log.is_closed_by(0, 1, CHAT, answers[0].entry)
    assert log.reopen(0, 1, CHAT, answers[0].entry)
    assert isinstance(answer(log, messages("a")), Accepted)


def test_the_requests_of_a_batch_get_numbers_in_their_order(log: Log) -> None:
    outcome = log.accept(0, [messages("a", "b"), messages("c"), chats(2)], NOTHING)
    answers, end = outcome.answers, outcome.end
    assert [(a.first, a.last) for a in answers if isinstance(a, Accepted)] == [
        (1, 2),
        (3, 3),
        (2, 3),
    ]
    assert end == EntryId(1, 4)
    assert isinstance(answer(log, messages("d", chat=3)), Accepted), (
        "a new chat takes messages at once"
    )


@pytest.mark.parametrize("last", [2**31 - 2, MAX_ISSUED - 4])
def test_great_numbers_keep_all_digits(log: Log, last: int) -> None:
    """Of messages and of entries: Lua itself writes fifteen digits."""
    assert isinstance(log.redis, redis.Redis)
    log.verify(0, 1, CHAT, last, create=True)
    plant_epoch(log, 0, sequence=last, stored=last)
    known = EntryId(1, last)
    keyed = messages("c", key="k", body="aa")
    outcome = log.accept(0, [messages("a", "b"), keyed, messages("d")], known)
    answers, end = outcome.answers, outcome.end
    expected = [
        Accepted(last + 1, last + 2, 0, EntryId(1, last + 1)),
        Accepted(last + 3, last + 3, 0, EntryId(1, last + 2)),
        Accepted(last + 4, last + 4, 0, EntryId(1, last + 3)),
    ]
    assert (answers, end) == (expected, EntryId(1, last + 3))
    assert answer(log, keyed) == expected[1]
    page = log.read(0, 1, "here", known, max_entries=10, max_bytes=10_000)
    events = [unpack(event) for _, event in page.entries]
    assert [e.first for e in events if isinstance(e, MessagesCreated)] == [
        a.first for a in expected
    ]
    assert page.end == end


def test_a_refused_request_does_not_affect_the_others_of_its_batch(log: Log) -> None:
    answers = log.accept(0, [messages("a", chat=9), messages("b")], NOTHING).answers
    assert answers[0] == Refusal("counter", "chat")
    assert isinstance(answers[1], Accepted)


def test_the_sequence_continues_if_the_log_is_deleted(log: Log) -> None:
    """Entries below the cursor would never be drained."""
    assert isinstance(log.redis, redis.Redis)
    log.redis.delete(log.key(0, "log"))
    given = answer(log, messages("a"))
    assert isinstance(given, Accepted)
    assert given.entry == EntryId(1, 2)


def test_the_client_never_retries(log: Log) -> None:
    """By default redis-py 8 repeats a command without a reply ten times, which would issue ten numbers."""
    assert isinstance(log.redis, redis.Redis)
    retry = log.redis.connection_pool.connection_kwargs["retry"]
    assert retry.get_retries() == 0


def test_a_redis_at_its_memory_limit_refuses_whole_batches(log: Log) -> None:
    """Redis refuses the first write, so no number is issued without its event."""
    assert isinstance(log.redis, redis.Redis)
    log._check_readiness(0)
    log.redis.config_set("maxmemory", 1)
    try:
        assert refused(log, messages("a" * 100)) == LogFull.__name__
        log._readings.clear()
        assert refused(log, messages("a" * 100)) == LogFull.__name__
    finally:
        log.redis.config_set("maxmemory", 0)
    log._readings.clear()
    assert isinstance(answer(log, messages("a")), Accepted)
