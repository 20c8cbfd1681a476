"""Lines whose numbers leave out others: said before it is done, found as one finding, stored as one row."""

import io
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Conflict, NotFound
from backend.domain.model import MAX_IMPORTED_NUMBER, Parent
from backend.ingest.requests import AcceptRequest
from backend.reconcile.findings import Finding, FindingKind
from backend.storage.postgres import gaps
from backend.transfer import format as line_format
from backend.transfer.left_out import LeftOut
from tests.conftest import Engines
from tests.support.faults.shortcuts import send
from tests.support.transfer import (
    REMOVED,
    TOKEN,
    application_body,
    chat_body,
    export,
    import_lines,
    locate_faults,
    message_body,
    new_installation,
    query,
    to_bytes,
)

FAR = MAX_IMPORTED_NUMBER
APPLICATION, CHAT = Parent(TOKEN), Parent(TOKEN, 1)


def reconcile(backend: Backend, token: str = TOKEN, *, repair: bool = False) -> list[Finding]:
    return list(backend.reconciler.begin(token, repair=repair).findings())


def counts(backend: Backend) -> tuple[Any, Any]:
    """The live counts of the application's chats, and of chat 1's messages."""
    catalog = backend.catalog
    return (
        catalog.applications.get(TOKEN).chats_count,
        getattr(catalog.chats.get(TOKEN, 1), "messages_count", None),
    )


def rows(backend: Backend, table: str = "message") -> list[tuple[Any, ...]]:
    """Number, first number of the range, and state of each row."""
    return query(backend, f"SELECT number, first_lost, state::text FROM {table} ORDER BY number")


def test_the_highest_number_alone_in_its_chat_is_one_finding_and_one_row(
    engines: Engines, backend: Backend
) -> None:
    """Counts are right after the repair, numbers go on behind it, and an export keeps all of that."""
    lines = [application_body(), chat_body(), chat_body(FAR), message_body(FAR)]
    import_lines(backend, lines)
    found = reconcile(backend)
    assert [(f.kind, f.chat, f.number, f.first, f.last) for f in found] == [
        (FindingKind.GAP_UNEXPLAINED, 2, None, 2, FAR - 1),
        (FindingKind.GAP_UNEXPLAINED, 1, 1, 1, FAR - 1),
    ]
    assert all(finding.repairable for finding in found)
    assert reconcile(backend, repair=True) == found
    assert reconcile(backend) == []
    assert counts(backend) == (2, 1)
    assert rows(backend) == [(FAR - 1, 1, "lost"), (FAR, None, "stored")]
    assert rows(backend, "chat")[1] == (FAR - 1, 2, "lost")
    assert send(backend, TOKEN, "next") == FAR + 1
    backend.drainer.drain_all()
    assert [m.number for m in backend.catalog.messages.list(TOKEN, 1)] == [FAR, FAR + 1]
    # The last number was issued, so it may be above what an import takes.
    query_delete(backend, FAR + 1)
    data = export(backend)
    assert import_lines(backend, data)[1] == []
    with new_installation(engines) as other:
        assert import_lines(other, data)[1] == []
        assert import_lines(other, data)[0].counts.stored == 0
        assert export(other) == data
        assert reconcile(other) == []
        assert counts(other) == (2, 1)


def query_delete(backend: Backend, number: int) -> None:
    """Delete the row of a message, as nobody does."""
    with backend.database.begin() as tx:
        tx.exec_driver_sql(f"DELETE FROM message WHERE number = {number}")


def test_an_import_says_which_numbers_are_left_out_before_it_stores_their_line(
    backend: Backend,
) -> None:
    """A dry run says the same. Numbers that a later line brings were left out by the earlier one."""
    lines = [application_body(), chat_body(), chat_body(4)]
    lines += [message_body(number) for number in (2, 9, 3, 10)]
    said: list[tuple[LeftOut, int]] = []
    planned: list[LeftOut] = []

    def stored() -> int:
        ((count,),) = query(backend, "SELECT count(*) FROM message")
        return int(count)

    for work in (
        backend.importer.dry_run(planned.append),
        backend.importer.begin(lambda left_out: said.append((left_out, stored()))),
    ):
        for chunk in line_format.read_chunks(io.BytesIO(to_bytes(lines)).read):
            assert work.process(chunk) == []
    expected = [
        LeftOut(3, APPLICATION, 2, 3),
        LeftOut(4, CHAT, 1, 1),
        LeftOut(5, CHAT, 4, 8),
    ]
    assert planned == expected
    assert said == [(left_out, 0) for left_out in expected]
    assert [(f.chat, f.first, f.last) for f in reconcile(backend)] == [
        (2, 2, 3),
        (1, None, None),
        (1, 4, 8),
    ]


def test_a_line_may_bring_a_number_that_is_stored_as_lost_with_many_others(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken out of the range, at its beginning, in the middle, and at its end."""
    monkeypatch.setattr(gaps, "MAX_SINGLE_ROWS", 1)
    import_lines(backend, [application_body(), chat_body(), chat_body(20), message_body(20)])
    reconcile(backend, repair=True)
    assert rows(backend) == [(19, 1, "lost"), (20, None, "stored")]
    for number in (10, 1, 19, 3):
        _, faults = import_lines(backend, [message_body(number)])
        assert faults == []
        assert reconcile(backend) == []
    assert rows(backend) == [
        (1, None, "stored"),
        (2, None, "lost"),
        (3, None, "stored"),
        (9, 4, "lost"),
        (10, None, "stored"),
        (18, 11, "lost"),
        (19, None, "stored"),
        (20, None, "stored"),
    ]
    for chat in (7, 19):
        lines = [chat_body(chat), message_body(chat=chat)]
        assert import_lines(backend, lines)[1] == []
        assert reconcile(backend) == []
    assert counts(backend) == (4, 5)
    assert send(backend, TOKEN, "a", chat=7) == 2
    _, faults = import_lines(backend, [message_body(2)])
    assert locate_faults(faults) == [(1, Conflict)], "a number that is lost by itself stays lost"


def test_the_range_of_a_line_takes_no_number_that_another_row_has(backend: Backend) -> None:
    """A tombstone's line may name a range that is too long, in the same file or later."""
    removed = {name: value for name, value in REMOVED.items() if name != "name"}
    import_lines(backend, [application_body(), chat_body(), message_body(1), message_body(4)])
    import_lines(
        backend,
        [
            message_body(12, first=2, **removed),
            message_body(8),
            message_body(6, first=5, **removed),
        ],
    )
    assert rows(backend) == [
        (1, None, "stored"),
        (4, None, "stored"),
        (6, 5, "removed"),
        (8, None, "stored"),
        (12, 9, "removed"),
    ]
    assert [(f.number, f.first, f.last) for f in reconcile(backend, repair=True)] == [
        (2, 2, 3),
        (7, None, None),
    ]
    assert reconcile(backend) == []
    assert counts(backend) == (1, 3)
    for first in (None, 8, 10):
        _, (fault,) = import_lines(backend, [message_body(12, first=first, **removed)])
        assert fault.error.message == "message 12 of chat 1 differs from what is there in first"
    assert import_lines(backend, [message_body(12, first=9, **removed)])[1] == []


def test_a_chat_that_is_lost_with_many_others_accepts_no_messages(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counter, which Redis still has, is closed. The counters of chats that exist stay open."""
    monkeypatch.setattr(gaps, "MAX_SINGLE_ROWS", 1)
    backend.acceptor.accept(AcceptRequest.chats(application, 5))
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM chat WHERE number IN (2, 3)")
    send(backend, application, "into nothing", chat=3)
    backend.drainer.drain_all()
    assert [f.kind for f in reconcile(backend, application, repair=True)] == [
        FindingKind.GAP_UNEXPLAINED
    ]
    for chat in (2, 3):
        with pytest.raises(NotFound):
            send(backend, application, "x", chat=chat)
    assert send(backend, application, "x", chat=4) == 1
    assert send(backend, application, "x", chat=1) == 1
