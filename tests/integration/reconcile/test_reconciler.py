"""Reconcile: planted differences of every kind are found exactly, and stay repaired."""

import random
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import NotFound
from backend.domain.model import Chat, Parent
from backend.ingest.requests import AcceptRequest
from backend.monitoring.checks import Severity
from backend.monitoring.dead_letter_checks import check_dead_letters
from backend.reconcile import orphan_counters, parents
from backend.reconcile.findings import Finding, FindingKind
from backend.storage.postgres import locks, reconciliations
from tests.support.planted_findings import CHATS, FULL, MESSAGES, Field, Key

SEEDS = range(5)


@pytest.fixture(autouse=True)
def _no_creation_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphan_counters, "CREATION_GRACE_SECONDS", 0.05)


def found(backend: Backend, token: str | None = None, **how: bool) -> list[Finding]:
    return list(backend.reconciler.begin(token, **how).findings())


def keys(findings: list[Finding]) -> Counter[Key]:
    return Counter((f.kind, f.token, f.chat, f.number) for f in findings)


@pytest.mark.parametrize("seed", SEEDS)
def test_reconcile_finds_exactly_the_planted_differences_and_repairs_them(
    backend: Backend, seed: int
) -> None:
    """They are random and of every kind; after the repair nothing is found."""
    field = Field(backend, random.Random(seed))
    assert found(backend) == []
    field.plant()
    assert keys(found(backend)) == Counter(field.expected)
    assert keys(found(backend, repair=True)) == Counter(field.expected)
    assert found(backend) == []
    for token in field.tokens:
        check_it_goes_on(backend, token)


def check_it_goes_on(backend: Backend, token: str) -> None:
    """Check that live counts equal the rows, and that no number is issued again."""
    chats = list(backend.catalog.chats.list(token))
    assert backend.catalog.applications.get(token).chats_count == len(chats)
    for chat in chats:
        messages = [m.number for m in backend.catalog.messages.list(token, chat.number)]
        assert chat.messages_count == len(messages)
        next_number = backend.acceptor.accept(
            AcceptRequest.messages(token, chat.number, ["x"])
        ).first
        assert next_number > max([*messages, MESSAGES if chat.number in FULL else 0])


def everything(field: Field) -> tuple[object, ...]:
    """The whole content of SQL and of Redis, except the list of connected workers."""
    tables = ("application", "chat", "message", "shard", "dead_letter", "reconciliation")
    with field.backend.database.connect() as connection:
        rows = [
            connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1, 2").all()
            for table in tables
        ]
    return rows, {key: field.redis.dump(key) for key in field.redis.scan_iter()}


def test_a_dry_run_finds_the_same_differences_and_writes_nothing(backend: Backend) -> None:
    """It writes neither to SQL nor to Redis, and does not drain the log."""
    field = Field(backend, random.Random(1), applications=2)
    field.plant()
    before = everything(field)
    assert keys(found(backend, repair=True, dry_run=True)) == Counter(field.expected)
    assert everything(field) == before
    backend.acceptor.accept(AcceptRequest.messages(field.tokens[0], 2, ["on its way"]))
    before = everything(field)
    found(backend, dry_run=True)
    assert everything(field) == before


def test_a_number_that_was_given_twice_is_reported_until_its_dead_letter_is_discarded(
    backend: Backend,
) -> None:
    """A caller was answered with the number of another's text, which no gap shows."""
    field = Field(backend, random.Random(1), applications=2)
    token, other = field.tokens
    field.plant_duplicate(Parent(token, FULL[0]), 4)
    field.plant_duplicate(Parent(token), CHATS)
    assert keys(found(backend, repair=True)) == keys(found(backend)) == Counter(field.kept)
    assert not any(finding.repairable for finding in found(backend))
    assert found(backend, other) == []
    checked = list(check_dead_letters(backend.database))
    assert [result.severity for result in checked] == [Severity.ERROR]
    duplicates = [s.letter.key for s in backend.dead_letters.all() if s.letter.token == token][-2:]
    for key in duplicates:
        assert backend.dead_letters.retry(key) is not None
        assert backend.dead_letters.purge(key)
    assert found(backend) == []
    checked = list(check_dead_letters(backend.database))
    assert [result.severity for result in checked] == [Severity.WARNING]


def test_a_dry_run_begins_no_epoch(backend: Backend, application: str) -> None:
    """After Redis was wiped, a dry run finds nothing and leaves Redis empty."""
    field = Field(backend, random.Random(1), applications=1)
    field.redis.flushall()
    assert found(backend, dry_run=True) == []
    assert field.redis.dbsize() == 0
    assert found(backend) == []
    assert field.redis.dbsize() > 0
    check_it_goes_on(backend, application)


def test_reconcile_of_one_application_leaves_the_others_alone(backend: Backend) -> None:
    """With a token, only the differences of that application are found and repaired."""
    field = Field(backend, random.Random(5))
    field.plant()
    for token in field.tokens:
        mine = Counter(key for key in field.expected if key[1] == token)
        assert keys(found(backend, token, repair=True)) == mine
        assert found(backend, token) == []
    left = Counter(key for key in field.expected if key[1] not in field.tokens)
    assert keys(found(backend)) == left


def test_the_number_of_keys_equals_the_end_of_the_progress(backend: Backend) -> None:
    """It is counted in advance, for all applications or for one."""
    field = Field(backend, random.Random(3))
    for token in (None, *field.tokens):
        done: list[int] = []
        work = backend.reconciler.begin(token)
        assert list(work.findings(done.append)) == []
        assert work.count_keys() == done[-1] > 0


def test_removed_rejected_lost_and_pending_numbers_are_not_findings(
    backend: Backend, application: str
) -> None:
    """The summary counts each of them as its kind."""
    field = Field(backend, random.Random(0), applications=1)
    field.execute("DELETE FROM message WHERE number = 5")
    list(backend.reconciler.begin(repair=True).findings())
    backend.acceptor.accept(AcceptRequest.messages(field.tokens[0], 2, ["a", "b"]))
    work = backend.reconciler.begin(dry_run=True)
    assert list(work.findings()) == []
    full = len(FULL)
    assert work.summary.removed == full + 1  # messages, and a chat
    assert work.summary.dead == full
    assert work.summary.lost == full
    assert work.summary.pending == 2
    assert work.summary.applications == 2  # one of them is the fixture's, which is empty
    assert work.summary.messages == full * MESSAGES
    assert application


def test_a_counter_that_is_far_too_high_is_not_repaired(backend: Backend) -> None:
    """A counter that was set a billion too high by hand must not create a billion rows."""
    field = Field(backend, random.Random(0), applications=1)
    field.set_issued(Parent(field.tokens[0], 2), 10**9)
    for _ in range(2):
        (finding,) = found(backend, repair=True)
        assert (finding.kind, finding.repairable) == (FindingKind.COUNTER_AHEAD, False)


def test_a_lost_chat_accepts_no_messages(backend: Backend) -> None:
    """Its number stays taken, and its counter, which Redis still has, is closed."""
    field = Field(backend, random.Random(0), applications=1)
    token = field.tokens[0]
    field.execute("DELETE FROM chat WHERE number = 1")
    backend.acceptor.accept(AcceptRequest.messages(token, 1, ["into nothing"]))
    assert keys(found(backend, repair=True)) == Counter(
        [(FindingKind.GAP_UNEXPLAINED, token, 1, None)]
    )
    with pytest.raises(NotFound):
        backend.acceptor.accept(AcceptRequest.messages(token, 1, ["x"]))
    assert backend.catalog.applications.get(token).chats_count == 4


def test_numbers_of_a_running_import_are_not_findings(backend: Backend) -> None:
    """It has raised a counter, but not written its rows. Without a running import, they are findings."""
    field = Field(backend, random.Random(0), applications=1)
    chat = Parent(field.tokens[0], 2)
    shard = backend.counters.shard(chat.token)
    with ThreadPoolExecutor(1) as thread:
        with backend.database.begin() as holding:
            locks.reserve_numbers(holding, shard)
            field.set_issued(chat, MESSAGES + 3)
            looking = thread.submit(found, backend)
            time.sleep(1)
            assert not looking.done()
            field.execute(
                "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)"
                " SELECT id, n, 1, now(), now(), 'x', 'x' FROM chat,"
                " generate_series(cast(:first AS bigint), :first + 2) n WHERE number = 2",
                first=MESSAGES + 1,
            )
        assert looking.result() == []
    field.set_issued(chat, MESSAGES + 6)
    assert keys(found(backend)) == Counter([(FindingKind.COUNTER_AHEAD, *chat, None)])


def test_memory_does_not_grow_with_the_data(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times as many chats, messages and findings take no more memory."""
    monkeypatch.setattr(parents, "PARENTS_PER_BATCH", 50)  # so that both sizes fill a batch
    peaks = []
    for chats in (2_000, 2_000, 10_000):  # the first run also loads modules, and does not count
        with backend.database.begin() as tx:
            tx.execute(text("TRUNCATE chat, message"))
            tx.execute(
                text(
                    """
                    INSERT INTO chat (application_id, number, created_at, updated_at)
                    SELECT id, n, now(), now() FROM application, generate_series(1, :chats) n;
                    INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
                    SELECT id, n, 1, now(), now(), 'x', 'x' FROM chat, generate_series(1, 5) n
                    WHERE number % 20 > 0 OR n <> 3"""
                ),
                {"chats": chats},
            )
        backend.counters.verify(Parent(application))
        tracemalloc.start()
        work = backend.reconciler.begin()
        assert sum(1 for _ in work.findings()) == chats // 20
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert work.summary.chats == chats
    assert peaks[2] < 1.5 * peaks[1], peaks  # buffers grow to their full size


def test_the_result_of_the_last_run_is_recorded(backend: Backend) -> None:
    """Dry runs and runs for a single application are not recorded."""
    field = Field(backend, random.Random(0), applications=1)
    found(backend, field.tokens[0])
    found(backend, dry_run=True)
    with backend.database.connect() as connection:
        assert reconciliations.last(connection) is None
    field.execute("DELETE FROM message WHERE number = 5")
    for repair, outcome in [(False, (3, 0)), (True, (3, 3)), (False, (0, 0))]:
        found(backend, repair=repair)
        with backend.database.connect() as connection:
            last = reconciliations.last(connection)
        assert last
        assert (last.findings, last.repaired) == outcome


def test_numbers_that_redis_lost_after_a_sync_are_reported_and_stored_as_lost(
    backend: Backend, application: str
) -> None:
    """They were answered and synced, but wiped before they were stored."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    backend.drainer.drain_all()
    backend.acceptor.accept(AcceptRequest.messages(application, 1, ["kept"]))
    backend.drainer.drain_all()
    backend.acceptor.accept(AcceptRequest.messages(application, 1, ["a", "b", "c"]))
    assert list(backend.counter_sync.sync())
    assert isinstance(backend.log.redis, redis.Redis)
    backend.log.redis.flushall()
    (finding,) = found(backend, repair=True)
    assert (finding.kind, finding.chat) == (FindingKind.COUNT_DIFFERS, 1)
    assert "2 to 4 were issued, and Redis has lost them" in finding.detail
    assert found(backend) == []
    assert backend.acceptor.accept(AcceptRequest.messages(application, 1, ["next"])).first == 5
    chat = backend.catalog.chats.get(application, 1)
    assert isinstance(chat, Chat)
    assert chat.messages_count == 2
