"""PostgreSQL goes back in time: what it has forgotten is stored again, and what can't be is counted."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from backend.api.health import metrics
from backend.api.health.poller import HealthPoller
from backend.bootstrap import Backend
from backend.domain.errors import EngineDown, NotFound, Unconfirmed
from backend.domain.events import pack_application
from backend.ingest.requests import AcceptRequest
from backend.ingest.tokens import Tokens
from backend.live.events import Created
from backend.live.reader import Position
from backend.monitoring.checks import CheckResult, Severity
from backend.monitoring.doctor import CheckContext, run_checks
from backend.monitoring.status import read_status
from backend.monitoring.summary import Figure, HealthState, group_figures
from backend.reconcile.findings import FindingKind
from backend.storage.postgres import applications, chats, shards
from backend.storage.postgres.shards import Rewind
from tests.conftest import Engines
from tests.support.faults.older_dump import OlderDump
from tests.support.faults.shortcuts import send, stored
from tests.support.redis_values import plant_epoch
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """The token of an application with a chat and a message that are stored."""
    new_chat(backend, application)
    send(backend, application, "before")
    backend.drainer.drain_all()
    return application


def new_chat(backend: Backend, token: str) -> int:
    return backend.acceptor.accept(AcceptRequest.chats(token)).first


def chat_id(backend: Backend, token: str, number: int) -> int:
    with backend.database.connect() as connection:
        return chats.chat_ids(connection, [(token, number)])[token, number].id


def rewind(backend: Backend) -> Rewind | None:
    with backend.database.connect() as connection:
        return shards.last_rewind(connection)


def findings(backend: Backend, *, repair: bool = False) -> list[FindingKind]:
    return [found.kind for found in backend.reconciler.begin(repair=repair).findings()]


@pytest.mark.scale("PostgreSQL: an older dump is restored")
def test_what_an_older_dump_has_forgotten_is_stored_again(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """A sweep notices it, even if nothing is accepted any more; nothing is lost, and no count differs."""
    dump = OlderDump(engines, backend)
    send(backend, chat, "a", "b")
    second = new_chat(backend, chat)
    send(backend, chat, "c", chat=second)
    backend.drainer.drain_all()
    dump.restore()
    assert stored(backend, chat) == {1: "before"}
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "before", 2: "a", 3: "b"}
    assert stored(backend, chat, second) == {1: "c"}
    assert send(backend, chat, "d") == 4
    assert new_chat(backend, chat) == second + 1
    assert findings(backend) == []
    found = rewind(backend)
    assert found is not None
    assert found.lost == 0


def test_it_happens_once_for_each_time_that_postgresql_goes_back(
    backend: Backend, engines: Engines, chat: str
) -> None:
    for word in ("a", "b"):
        dump = OlderDump(engines, backend)
        send(backend, chat, word)
        backend.drainer.drain_all()
        dump.restore()
        backend.drainer.drain_all()
        epoch = backend.drainer._epochs.read(backend.counters.shard(chat))
        backend.drainer.drain_all()
        assert backend.drainer._epochs.read(backend.counters.shard(chat)) == epoch
    assert stored(backend, chat) == {1: "before", 2: "a", 3: "b"}


def test_deletions_of_parents_are_decided_again(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """They are in the log: what was removed is removed again, and what was refused stays."""
    empty = new_chat(backend, chat)
    backend.drainer.drain_all()
    dump = OlderDump(engines, backend)
    backend.catalog.chats.delete(chat, empty)
    backend.catalog.chats.delete(chat, 1, cascade=True)
    kept = new_chat(backend, chat)
    send(backend, chat, "a", chat=kept)
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    assert [found.number for found in backend.catalog.chats.list(chat)] == [kept]
    assert backend.catalog.applications.get(chat).chats_count == 1
    for _ in range(2):
        backend.cascade_deleter.delete_all()
    assert findings(backend) == []


def test_edits_and_deletions_of_messages_are_not_in_the_log(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """As docs/guarantees.md says: the messages are as they were then, and consistent."""
    send(backend, chat, "to be edited", "to be deleted")
    backend.drainer.drain_all()
    dump = OlderDump(engines, backend)
    backend.catalog.messages.edit(chat, 1, 2, {"text": "edited"})
    backend.catalog.messages.delete(chat, 1, 3)
    send(backend, chat, "a")
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "before", 2: "to be edited", 3: "to be deleted", 4: "a"}
    assert findings(backend) == []


def test_the_id_of_a_chat_is_not_given_to_another_one(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """Followers and the index know the chat that is forgotten by its id."""
    dump = OlderDump(engines, backend)
    forgotten = [new_chat(backend, chat) for _ in range(3)]
    backend.drainer.drain_all()
    ids = {chat_id(backend, chat, number) for number in forgotten}
    dump.restore()
    backend.drainer.drain_all()
    assert not ids & {chat_id(backend, chat, number) for number in forgotten}


def test_a_gap_beyond_the_kept_log_is_counted(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """Exactly, in numbers: what is left of the log is stored, and repair marks the rest as lost."""
    dump = OlderDump(engines, backend)
    send(backend, chat, "a", "b", "c")
    send(backend, chat, "d")
    backend.log.retention_seconds = 0
    backend.drainer.drain_all()
    backend.log.retention_seconds = 600
    send(backend, chat, "e")
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "before", 6: "e"}
    found = rewind(backend)
    assert found is not None
    assert found.lost == 4
    backend.drainer.drain_all()
    assert rewind(backend) == found, "it is counted once"
    assert send(backend, chat, "f") == 7
    assert findings(backend, repair=True) == [FindingKind.GAP_UNEXPLAINED], "all four are one"
    assert findings(backend) == []


def doctor(backend: Backend) -> CheckResult:
    context = CheckContext(
        backend.settings,
        backend.database,
        backend.log,
        backend.workers,
        None,
        backend.jobs.length,
        backend.counter_sync.lag,
        backend.epochs.recognition.find_wrong,
    )
    return next(found for found in run_checks(context) if found.check == "rewinds")


async def page(backend: Backend) -> tuple[Figure, str]:
    """The status page's figure, and the metrics."""
    poller = HealthPoller(backend)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (
            snapshot := await poller.poll()
        ).status is None:  # on a busy machine it comes too late
            await asyncio.sleep(0.1)
    figures = (figure for group in group_figures(snapshot) for figure in group.figures)
    text, _ = metrics.render(snapshot, "")
    return next(found for found in figures if found.name == "PostgreSQL's past"), text.decode()


@pytest.mark.parametrize("retention", [0, 600])
def test_every_report_says_so_until_the_stores_are_compared(
    backend: Backend, engines: Engines, chat: str, retention: float
) -> None:
    lost = 0 if retention else 2
    assert doctor(backend).severity is Severity.OK
    figure, before = asyncio.run(page(backend))
    assert (figure.state, figure.value) == (HealthState.OK, "never went back in time")
    assert "instachat_lost_numbers 0.0" in before
    dump = OlderDump(engines, backend)
    send(backend, chat, "a", "b")
    backend.log.retention_seconds = retention
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    found = doctor(backend)
    assert found.severity is (Severity.ERROR if lost else Severity.WARNING)
    assert (f"{lost} numbers of accepted" in found.message) == bool(lost)
    status = read_status(backend.database, backend.log, backend.workers, lambda: 0)
    assert status.rewound is not None
    assert status.rewound.lost == lost
    figure, after = asyncio.run(page(backend))
    assert figure.state is (HealthState.CRITICAL if lost else HealthState.WARNING)
    assert f"instachat_lost_numbers {lost}.0" in after
    findings(backend, repair=True)
    assert doctor(backend).severity is Severity.OK
    assert asyncio.run(page(backend))[0].state is HealthState.OK


def test_a_gap_without_anything_behind_it_is_counted(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """Every entry that SQL has forgotten is gone from the log."""
    dump = OlderDump(engines, backend)
    send(backend, chat, "a", "b")
    backend.log.retention_seconds = 0
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    found = rewind(backend)
    assert found is not None
    assert found.lost == 2
    assert findings(backend, repair=True) == [FindingKind.COUNTER_AHEAD]
    assert findings(backend) == []


def test_a_log_that_another_program_deletes_is_counted(backend: Backend, chat: str) -> None:
    """The cursor would pass what was accepted, and not stored."""
    send(backend, chat, "a")
    send(backend, chat, "b")
    backend.log.redis.delete(backend.log.key(backend.counters.shard(chat), "log"))
    send(backend, chat, "c")
    backend.drainer.drain_all()
    assert stored(backend, chat) == {1: "before", 4: "c"}
    found = rewind(backend)
    assert found is not None
    assert found.lost == 2


def test_applications_and_their_names_come_back(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """With their times and versions, and with what was created below them."""
    dump = OlderDump(engines, backend)
    token = backend.catalog.applications.create("first").token
    renamed = backend.catalog.applications.rename(token, "second")
    earlier = backend.catalog.applications.rename(chat, "earlier")
    send(backend, token, "a", chat=new_chat(backend, token))
    backend.drainer.drain_all()
    dump.restore()
    assert backend.catalog.applications.get(chat).name == "test"
    backend.drainer.drain_all()
    assert backend.catalog.applications.get(token) == replace(renamed, chats_count=1)
    assert backend.catalog.applications.get(chat) == earlier
    assert stored(backend, token) == {1: "a"}
    assert findings(backend) == []


def test_a_token_that_was_replaced_stays_refused(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """Also one of an application that SQL has forgotten as a whole."""
    dump = OlderDump(engines, backend)
    new = backend.catalog.applications.create("new").token
    rotated = {token: backend.catalog.applications.rotate(token).token for token in (chat, new)}
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    tokens = Tokens(backend.database)
    backend.database.refresh_installation()
    for original, current in rotated.items():
        assert tokens.original(current) == original
        assert backend.catalog.applications.get(original).token == current
        with pytest.raises(NotFound):
            tokens.original(original)


def test_an_application_of_the_forgotten_time_accepts_while_it_is_stored_again(
    backend: Backend, engines: Engines
) -> None:
    """It is not called unknown: its creation is in the log, and the request waits for it."""
    dump = OlderDump(engines, backend)
    token = backend.catalog.applications.create("new").token
    backend.drainer.drain_all()
    dump.restore()
    shard = backend.counters.shard(token)
    backend.drainer._epochs.begin_epoch(shard, "PostgreSQL went back")
    assert new_chat(backend, token) == 1


def test_a_deleted_application_stays_deleted(backend: Backend, engines: Engines) -> None:
    dump = OlderDump(engines, backend)
    token = backend.catalog.applications.create("new").token
    backend.catalog.applications.delete(token)
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    with pytest.raises(NotFound):
        backend.catalog.applications.get(token)
    with pytest.raises(NotFound):
        new_chat(backend, token)
    assert findings(backend) == []


def test_a_change_of_an_application_that_is_not_recorded_is_unconfirmed(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done in SQL, so it is not refused; and it is not confirmed, because it might not come back."""

    def append(*_: object) -> None:
        raise EngineDown("Redis is away")

    monkeypatch.setattr(backend.log, "append", append)
    with pytest.raises(Unconfirmed):
        backend.catalog.applications.rename(application, "new")
    assert backend.catalog.applications.get(application).name == "new"


def test_an_application_that_is_recorded_changes_nothing_in_sql(
    backend: Backend, application: str
) -> None:
    """Also if its event is read again, or late: names of a later version stay."""
    before = backend.catalog.applications.rename(application, "later")
    with backend.database.connect() as connection:
        row = applications.get_application(connection, application)
    assert row is not None
    backend.drainer._log.append(
        backend.counters.shard(application),
        1,
        pack_application(application, "earlier", row.version - 1, row.created_at, row.updated_at),
    )
    backend.drainer.drain_all()
    assert backend.catalog.applications.get(application) == before


def test_an_application_that_is_lost_is_unknown_at_once(backend: Backend, engines: Engines) -> None:
    """Its counter in Redis would have accepted for it."""
    dump = OlderDump(engines, backend)
    backend.log.retention_seconds = 0
    token = backend.catalog.applications.create("lost").token
    new_chat(backend, token)
    backend.drainer.drain_all()
    dump.restore()
    backend.drainer.drain_all()
    with pytest.raises(NotFound):
        new_chat(backend, token)
    with pytest.raises(NotFound):
        send(backend, token, "a")


def test_a_follower_waits_for_its_chat_to_be_stored_again(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """It is not told that the chat was deleted, and is told of each message once."""
    dump = OlderDump(engines, backend)
    key = (chat, new_chat(backend, chat))
    send(backend, chat, "a", chat=key[1])
    backend.drainer.drain_all()
    start = backend.live_reader.start(key)
    assert start is not None
    dump.restore()
    news = backend.live_reader.read({key: Position(start.chat_id, 1)})[key]
    assert (news.chat_id, news.ended, news.decided) == (None, None, [])
    send(backend, chat, "b", chat=key[1])
    backend.drainer.drain_all()
    news = backend.live_reader.read({key: Position(news.chat_id, 1, gap=news.gap)})[key]
    assert [event.message.text for event in news.decided if isinstance(event, Created)] == ["b"]


def test_a_restart_of_redis_reads_nothing_again(backend: Backend, chat: str) -> None:
    """The first drain of an epoch goes on behind what Redis notes as stored."""
    shard = backend.counters.shard(chat)
    plant_epoch(backend.log, shard, server="0" * 40)
    send(backend, chat, "a")
    assert backend.drainer.drain(shard) == 1
    assert stored(backend, chat) == {1: "before", 2: "a"}
    assert rewind(backend) is None


def test_the_backlog_is_counted_from_the_cursor(
    backend: Backend, engines: Engines, chat: str
) -> None:
    """Also before anything has noticed that PostgreSQL went back."""
    dump = OlderDump(engines, backend)
    send(backend, chat, "a")
    backend.drainer.drain_all()
    dump.restore()
    assert read_status(backend.database, backend.log, backend.workers, lambda: 0).waiting == 1
    with backend.database.connect() as connection:
        assert connection.scalar(text("SELECT sum(lost) FROM shard")) == 0
