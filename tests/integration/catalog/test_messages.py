"""Lists of messages, checked by a plain oracle: deletions, gaps, imports and rejected numbers included."""

import io
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.event import listen

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Invalid
from backend.domain.model import MAX_NUMBER, MAX_TEXT, Message, MessageRange, NumberedPage
from backend.domain.serialization import rfc3339
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import message_blocks
from backend.transfer import format as line_format
from tests.conftest import Engines
from tests.support.transfer_lines import message_line

NOW = datetime.now(UTC)
"""Between the times of imported and of accepted messages."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = "refused"
"""A text that PostgreSQL refuses, so that its number is rejected."""
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Send:
    """A request of so many messages is accepted; those in `rejected`, counted from 0, are refused by SQL."""

    count: int
    rejected: frozenset[int]


@dataclass(frozen=True)
class Import:
    """Messages are imported behind a gap: each the distance to the one before, its age, whether removed."""

    messages: tuple[tuple[int, int, bool], ...]
    backwards: bool


Step = Send | Import


@dataclass(frozen=True)
class LaterSteps:
    """Of these numbers, those in a gap are imported, each with its age; then some messages are deleted."""

    filled: dict[int, int]
    deleted: Set[int]


STEPS = st.lists(
    st.builds(Send, st.integers(1, 6), st.frozensets(st.integers(0, 5), max_size=2))
    | st.builds(
        Import,
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(0, 20), st.booleans()), min_size=1, max_size=6
        ).map(tuple),
        st.booleans(),
    ),
    max_size=5,
)


@dataclass(frozen=True)
class Room:
    """A chat, the messages that a list may show, and its live count."""

    backend: Backend
    token: str
    chat: int
    shown: dict[int, datetime]  # creation times by number
    total: int

    def expected(self, within: MessageRange, *, newest_first: bool = False) -> list[int]:
        """The numbers that the oracle finds."""
        numbers = [
            number
            for number, created_at in self.shown.items()
            if within.after < number < within.before
            and (within.since is None or created_at >= within.since)
            and (within.until is None or created_at < within.until)
        ]
        return sorted(numbers, reverse=newest_first)

    def check(
        self, page: NumberedPage[Message], expected: list[int], limit: int, follows: list[int]
    ) -> None:
        """The page has these numbers and the live count, and `next` leads to those that follow."""
        assert len(expected) <= limit
        assert [message.number for message in page.items] == expected
        assert [message.created_at for message in page.items] == [
            self.shown[number] for number in expected
        ]
        assert page.total == self.total
        assert (page.next is None) == (not follows)
        if page.next is not None and expected:
            assert page.next == expected[-1]
        elif page.next is not None:  # where the page began, so that nothing is skipped
            assert page.next not in self.shown


@pytest.fixture(scope="module")
def backend(engines: Engines) -> Iterator[Backend]:
    """A backend whose PostgreSQL refuses a text, and whose blocks are so small that every chat has some."""
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        open_backend(engines.installation()) as core,
    ):
        monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
        with core.database.begin() as tx:
            tx.execute(text(f"ALTER TABLE message ADD CHECK (text <> '{REFUSED}')"))
        yield core


def load(backend: Backend, lines: Iterable[str]) -> None:
    """Import these lines, each in a transaction of its own."""
    for line in lines:
        work = backend.importer.begin()
        for chunk in line_format.read_chunks(io.BytesIO(line.encode()).read):
            assert not work.process(chunk)


def build(backend: Backend, steps: list[Step], later: LaterSteps) -> Room:
    """A new chat in which these steps happened, and then the later ones."""
    token = backend.catalog.applications.create("test").token
    chat = backend.acceptor.accept(AcceptRequest.chats(token)).first
    backend.drainer.drain_all()
    shown: dict[int, datetime] = {}
    top, gaps = 0, set[int]()
    for step in steps:
        if isinstance(step, Send):
            texts = [REFUSED if i in step.rejected else "text" for i in range(step.count)]
            accepted = backend.acceptor.accept(AcceptRequest.messages(token, chat, texts))
            backend.drainer.drain_all()
            assert accepted.first == top + 1
            top = accepted.last
            for number, written in enumerate(texts, accepted.first):
                if written == "text":
                    found = backend.catalog.messages.get(token, chat, number)
                    assert isinstance(found, Message)
                    shown[number] = found.created_at
        else:
            lines = []
            for distance, age, removed in step.messages:
                gaps |= set(range(top + 1, top + distance))
                top += distance
                at = rfc3339(EPOCH + timedelta(seconds=age))
                content = None if removed else "text"
                lines.append(message_line(token, chat, top, content, at, at))
                if not removed:
                    shown[top] = EPOCH + timedelta(seconds=age)
            load(backend, reversed(lines) if step.backwards else lines)
    for number, age in later.filled.items():
        if number in gaps:
            gaps.remove(number)
            shown[number] = EPOCH + timedelta(seconds=age)
            at = rfc3339(shown[number])
            load(backend, [message_line(token, chat, number, "text", at, at)])
    for number in sorted(later.deleted & shown.keys()):
        backend.catalog.messages.delete(token, chat, number)
        del shown[number]
    return Room(backend, token, chat, shown, len(shown) + len(gaps))


LATER = st.builds(
    LaterSteps,
    st.dictionaries(st.integers(1, 40), st.integers(0, 20), max_size=10),
    st.frozensets(st.integers(1, 40), max_size=6),
)
ROOMS = st.tuples(STEPS, LATER)
NUMBERS = st.integers(0, 45) | st.sampled_from([MAX_NUMBER, MAX_NUMBER + 1])
AGES = st.integers(0, 21)
"""Seconds: times of imported messages, between them, and beyond."""
TIMES = st.none() | AGES.map(lambda age: EPOCH + timedelta(seconds=age)) | st.just(NOW)


def make_range(
    numbers: tuple[int, int], times: tuple[datetime | None, datetime | None]
) -> MessageRange:
    """A range whose ends are in their order."""
    since, until = times
    if since is not None and until is not None:
        since, until = sorted((since, until))
    return MessageRange(min(numbers), max(numbers), since, until)


RANGES = st.builds(make_range, st.tuples(NUMBERS, NUMBERS), st.tuples(TIMES, TIMES))


@MANY
@given(
    ROOMS,
    st.lists(st.tuples(RANGES, st.integers(1, 12), st.booleans()), min_size=1, max_size=8),
)
def test_a_page_is_that_of_the_oracle(
    backend: Backend,
    room_steps: tuple[list[Step], LaterSteps],
    questions: list[tuple[MessageRange, int, bool]],
) -> None:
    """Ascending and descending, between any two numbers and any two times; and all pages are the list."""
    room = build(backend, *room_steps)
    catalog, token, chat = backend.catalog.messages, room.token, room.chat
    for within, limit, newest_first in questions:
        expected = room.expected(within, newest_first=newest_first)
        page = catalog.page(token, chat, within, limit=limit, newest_first=newest_first)
        room.check(page, expected[:limit], limit, follows=expected[limit:])
        listed = catalog.list(token, chat, within, newest_first=newest_first)
        assert [message.number for message in listed] == expected
        newest = catalog.newest(token, chat, within, count=limit)
        assert [message.number for message in newest] == sorted(expected)[-limit:]


@pytest.mark.parametrize("backwards", [False, True])
def test_imports_into_gaps_are_found_by_their_times(backend: Backend, backwards: bool) -> None:
    """Between any two times, also where the numbers above them were stored long before."""
    imported = tuple((3, age, False) for age in (9, 3, 12, 6))
    steps: list[Step] = [Send(5, frozenset({2})), Import(imported, backwards), Send(6, frozenset())]
    room = build(backend, steps, LaterSteps({6: 19, 7: 1, 12: 18, 13: 0, 16: 5}, {8, 16}))
    catalog = backend.catalog.messages
    bounds = [None, *(EPOCH + timedelta(seconds=age) for age in range(21)), NOW]
    for since, until in combinations(bounds, 2):
        for newest_first in (False, True):
            within = make_range((0, 100), (since, until))
            expected = room.expected(within, newest_first=newest_first)
            page = catalog.page(room.token, room.chat, within, limit=20, newest_first=newest_first)
            room.check(page, expected, 20, follows=[])


@MANY
@given(ROOMS, st.integers(1, 45), st.integers(1, 12))
def test_a_page_around_a_number_is_that_of_the_oracle(
    backend: Backend, room_steps: tuple[list[Step], LaterSteps], number: int, limit: int
) -> None:
    """As many before it as after it, whether or not it has a message; and `next` leads on."""
    room = build(backend, *room_steps)
    catalog, token, chat = backend.catalog.messages, room.token, room.chat
    numbers, side = sorted(room.shown), (limit - 1) // 2
    below = [each for each in numbers if each < number]
    above = [each for each in numbers if each > number]
    own = [number] if number in room.shown else []
    expected = below[max(len(below) - side, 0) :] + own + above[:side]
    page = catalog.page_around(token, chat, number, limit=limit)
    room.check(page, expected, limit, follows=above[side:])
    page = catalog.page_around(token, chat, number, limit=limit, newest_first=True)
    room.check(page, expected[::-1], limit, follows=below[: max(len(below) - side, 0)][::-1])


@MANY
@given(ROOMS, st.sets(st.integers(1, 45), min_size=1), st.booleans())
def test_messages_are_read_by_their_numbers(
    backend: Backend,
    room_steps: tuple[list[Step], LaterSteps],
    wanted: set[int],
    newest_first: bool,
) -> None:
    """Those that are stored, in the order asked for; the others are left out."""
    room = build(backend, *room_steps)
    page = backend.catalog.messages.page_of_numbers(
        room.token, room.chat, wanted, newest_first=newest_first
    )
    expected = sorted(wanted & room.shown.keys(), reverse=newest_first)
    room.check(page, expected, len(wanted), follows=[])


@pytest.mark.parametrize("count", [1, 3, 4, 9, 10, 11])
def test_more_of_the_newest_messages_than_a_page(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """They are found in two passes, and printed in their order."""
    room = build(backend, [Send(10, frozenset())], LaterSteps({}, {5}))
    monkeypatch.setattr("backend.catalog.messages.PAGE", 3)
    newest = backend.catalog.messages.newest(room.token, room.chat, count=count)
    assert [message.number for message in newest] == [1, 2, 3, 4, 6, 7, 8, 9, 10][-count:]


def test_a_range_that_holds_no_number_is_refused() -> None:
    """A range that ends where it begins is empty, as the last page of a list may be."""
    assert MessageRange(after=5, before=5) == MessageRange(5, 5)
    with pytest.raises(Invalid, match="no number is after 6 and before 5"):
        MessageRange(after=6, before=5)


def test_nothing_is_changed_before_it_was_created(backend: Backend, application: str) -> None:
    """Creation times are Redis's, whose clock may be ahead; those of changes are PostgreSQL's."""
    backend.acceptor.accept(AcceptRequest.chats(application, 2))
    backend.acceptor.accept(AcceptRequest.messages(application, 1, ["a", "b"]))
    backend.drainer.drain_all()
    own_chats = (
        "(SELECT c.id FROM chat c JOIN application a ON a.id = c.application_id"
        f" WHERE a.token = '{application}')"
    )
    own_rows = {"message": f"chat_id IN {own_chats}", "chat": f"id IN {own_chats}"}
    with backend.database.begin() as tx:
        for table, is_own in own_rows.items():
            tx.exec_driver_sql(
                f"UPDATE {table} SET created_at = now() + interval '1 hour',"
                f" updated_at = now() + interval '1 hour' WHERE {is_own}"
            )
    edited = backend.catalog.messages.edit(application, 1, 1, {"text": "edited"})
    assert edited.updated_at >= edited.created_at
    backend.catalog.messages.delete(application, 1, 2)
    backend.catalog.chats.delete(application, 2)
    with backend.database.connect() as connection:
        for table, is_own in own_rows.items():
            rows = connection.exec_driver_sql(
                f"SELECT updated_at >= created_at FROM {table} WHERE {is_own}"
            )
            assert rows.scalars().all() == [True, True]


def test_an_edit_costs_the_same_however_large_its_chat_is(
    backend: Backend, application: str
) -> None:
    """One row is read and one written, of however many; and its text folds to so much at most."""
    backend.acceptor.accept(AcceptRequest.chats(application, 2))
    backend.acceptor.accept(AcceptRequest.messages(application, 1, ["alone"]))
    backend.acceptor.accept(AcceptRequest.messages(application, 2, ["one of many"] * 1_000))
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        tx.exec_driver_sql("UPDATE installation SET publishing = true")
    backend.catalog.messages.edit(application, 1, 1, {"text": "statements are prepared"})
    dearest = "\ufdfa" * MAX_TEXT
    statements: list[str] = []
    listen(backend.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    costs = []
    for chat, number in ((1, 1), (2, 500)):
        statements.clear()
        backend.catalog.messages.edit(application, chat, number, {"text": dearest})
        costs.append(list(statements))
        with backend.database.connect() as connection:
            folded = connection.exec_driver_sql(
                "SELECT length(folded) FROM message WHERE text = %s AND number = %s",
                (dearest, number),
            )
            assert folded.scalars().all() == [18 * MAX_TEXT]
    assert costs[0] == costs[1]
    assert len(costs[0]) <= 8, costs[0]
