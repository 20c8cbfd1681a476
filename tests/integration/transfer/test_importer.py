"""An import stores new lines, skips stored ones, and no number is issued twice."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import Conflict, NotFound
from backend.domain.folding import fold
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import imports
from backend.storage.postgres.database import Connection
from backend.storage.postgres.messages import ImportedMessage
from backend.transfer import importer
from tests.conftest import Engines
from tests.integration.transfer.conftest import SampleExport
from tests.support.faults.shortcuts import send, stored
from tests.support.transfer import (
    LATER,
    REMOVED,
    TEXTS,
    TOKEN,
    application_body,
    chat_body,
    count_dead_letters,
    decode_lines,
    dry_run,
    export,
    fill_installation,
    import_lines,
    locate_faults,
    message_body,
    new_installation,
    query,
    read_everything,
)

# -- costs --------------------------------------------------------------------------------------------


def test_texts_that_are_dear_to_store_are_stored_in_several_transactions(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk may fold to many times its size, and each transaction holds the shard."""
    dear = "\ufdfa" * 9_000 + "\u0344" * 1_000
    monkeypatch.setattr(importer, "MAX_FOLDED_LENGTH", 3 * len(fold(dear)))
    transactions: list[int] = []
    copy = imports.copy_imported_messages

    def record(tx: Connection, rows: Sequence[ImportedMessage]) -> None:
        transactions.append(len(rows))
        copy(tx, rows)

    monkeypatch.setattr(imports, "copy_imported_messages", record)
    lines = [application_body(), chat_body()]
    lines += [message_body(number=number, text=dear) for number in range(1, 9)]
    work, faults = import_lines(backend, lines)
    assert transactions == [3, 3, 2]
    assert (work.counts.messages, work.counts.skipped, faults) == (8, 0, [])
    assert list(stored(backend, TOKEN).values()) == [dear] * 8
    assert import_lines(backend, lines)[0].counts.skipped == 10


# -- idempotence --------------------------------------------------------------------------------------


def test_an_import_of_the_same_file_twice_changes_nothing(
    engines: Engines, backend: Backend
) -> None:
    """The second import skips every line, and leaves PostgreSQL and Redis as they are."""
    fill_installation(backend)
    data = export(backend)
    before = read_everything(backend)
    assert import_lines(backend, data)[1] == []
    assert read_everything(backend) == before, "the import into its source changed something"
    with new_installation(engines) as other:
        import_lines(other, data)
        before = read_everything(other)
        work, faults = import_lines(other, data)
        assert read_everything(other) == before
        assert (work.counts.stored, work.counts.skipped, faults) == (0, data.count(b"\n"), [])


def test_an_import_stores_a_repeated_line_once(backend: Backend) -> None:
    """A file may contain equal lines, as two concatenated exports do."""
    lines = [application_body(), chat_body(), message_body()]
    work, faults = import_lines(backend, lines + lines)
    assert (work.counts.stored, work.counts.skipped, faults) == (3, 3, [])
    assert dry_run(backend, lines + lines) == []


def test_the_order_of_fields_and_the_zone_of_times_make_no_difference(backend: Backend) -> None:
    """An import compares the content of lines with what is stored, and ignores their counts."""
    import_lines(backend, [application_body(), chat_body(), message_body()])
    reordered = dict(reversed(message_body(created_at="2026-02-01T01:59:59+02:00").items()))
    lines = [
        application_body(chats_count=99),
        chat_body(messages_count="many", removed=False),
        reordered,
    ]
    work, faults = import_lines(backend, lines)
    assert (work.counts.stored, faults) == (0, [])


def test_an_import_compares_lines_with_messages_that_are_only_accepted(
    backend: Backend, application: str
) -> None:
    """It first stores them, also where no worker runs; it then knows their chat, and finds conflicts."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    send(backend, application, "accepted")
    lines = [message_body(7, token=application), message_body(1, token=application)]
    faults = import_lines(backend, lines)[1]
    assert locate_faults(faults) == [(2, Conflict)]
    backend.drainer.drain_all()
    assert query(backend, "SELECT number FROM message ORDER BY 1") == [(1,), (7,)]


# -- unique numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wiped", [False, True], ids=["kept", "wiped"])
def test_new_numbers_are_above_the_highest_imported_one(
    backend: Backend, sample: SampleExport, wiped: bool
) -> None:
    """This includes numbers of tombstones, and also holds if Redis is wiped after the import."""
    token, data = sample
    import_lines(backend, data)
    if wiped:
        backend.log.redis.flushall()
    assert send(backend, token, "x") == len(TEXTS) + 1
    assert send(backend, token, "x", chat=11) == 301
    assert send(backend, token, "x", chat=3) == 2
    assert send(backend, token, "x", chat=2) == 1
    assert backend.acceptor.accept(AcceptRequest.chats(token)).first == 13
    for number in (4, 12):
        with pytest.raises(NotFound):
            send(backend, token, "x", chat=number)
    deleted = [
        x["token"] for x in decode_lines(data) if x["type"] == "application" and "removed" in x
    ]
    with pytest.raises(NotFound):
        backend.acceptor.accept(AcceptRequest.chats(*deleted))
    backend.drainer.drain_all()
    assert count_dead_letters(backend) == 0


@pytest.fixture
def delete_rows(backend: Backend) -> Callable[[str], None]:
    """Call it with a WHERE clause: deletes such chats from SQL, as if an older copy had been restored."""

    def delete(which: str) -> None:
        with backend.database.begin() as tx:
            tx.execute(
                text(f"DELETE FROM message WHERE chat_id IN (SELECT id FROM chat WHERE {which})")
            )
            tx.execute(text(f"DELETE FROM chat WHERE {which}"))

    return delete


def test_an_imported_tombstone_closes_the_counter_that_redis_still_has(
    backend: Backend, delete_rows: Callable[[str], None]
) -> None:
    """Accept then issues no number in a chat or an application that was imported as a tombstone."""
    import_lines(backend, [application_body()])
    backend.acceptor.accept(AcceptRequest.chats(TOKEN, 2))
    send(backend, TOKEN, "a", chat=2)
    backend.drainer.drain_all()
    delete_rows("number = 2")
    assert import_lines(backend, [chat_body(2, **REMOVED)])[1] == []
    with pytest.raises(NotFound):
        send(backend, TOKEN, "b", chat=2)
    delete_rows("true")
    with backend.database.begin() as tx:
        tx.execute(text("DELETE FROM application"))
    assert import_lines(backend, [application_body(**REMOVED)])[1] == []
    with pytest.raises(NotFound):
        backend.acceptor.accept(AcceptRequest.chats(TOKEN))


def test_an_imported_chat_opens_the_counter_that_redis_has_closed(
    backend: Backend, delete_rows: Callable[[str], None]
) -> None:
    """After an older copy of SQL was restored, a chat that it had deleted accepts messages once imported."""
    import_lines(backend, [application_body()])
    backend.acceptor.accept(AcceptRequest.chats(TOKEN))
    backend.drainer.drain_all()
    backend.catalog.chats.delete(TOKEN, 1)
    delete_rows("true")
    assert import_lines(backend, [chat_body(), message_body(4)])[1] == []
    assert send(backend, TOKEN, "x") == 5


# -- what follows from stored lines -------------------------------------------------------------------


def test_an_import_marks_the_parents_of_new_lines_as_dirty(backend: Backend) -> None:
    """Their counts in SQL are synced later, as after accept; live counts are right at once."""
    import_lines(
        backend,
        [application_body(), *map(chat_body, (1, 2)), message_body(), message_body(2, **REMOVED)],
    )
    key = backend.log.key(backend.counters.shard(TOKEN), "dirty")
    assert set(backend.log.redis.zrange(key, 0, -1)) == {TOKEN.encode(), f"{TOKEN}:1".encode()}
    assert query(backend, "SELECT messages_removed FROM chat ORDER BY number") == [(1,), (0,)]
    assert getattr(backend.catalog.chats.get(TOKEN, 1), "messages_count", None) == 1


def test_an_import_adds_its_messages_to_the_outbox_where_changes_are_published(
    backend: Backend,
) -> None:
    """The outbox names each row with its version, tombstones included."""
    import_lines(backend, [application_body(), chat_body()])
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE installation SET publishing = true"))
    import_lines(backend, [message_body(updated_at=LATER), message_body(2, **REMOVED)])
    named = query(
        backend, "SELECT c, n, v FROM outbox, unnest(chats, numbers, versions) w(c, n, v)"
    )
    rows = query(backend, "SELECT chat_id, number, version FROM message ORDER BY number")
    assert named == rows
    assert [version for _, _, version in rows] == [1769903999000001, 1769903999000000]
