"""Quick reads show what the catalog shows, and leave to it what is not simply there."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.catalog.quick_reads import QuickReads
from backend.domain import serialization
from backend.domain.errors import EngineDown, NotFound
from backend.domain.model import MAX_NUMBER, Chat, Message, Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres.grouped_reads import SCANNED_NUMBERS
from backend.storage.postgres.quick_connection import QuickError
from backend.storage.postgres.schema import SCHEMA
from tests.support.message_fields import MESSAGES

WHOLE_CHAT = {"after": 0, "before": MAX_NUMBER + 1}
UNKNOWN = "u" * 32


@pytest.fixture
def quick(backend: Backend) -> Iterator[QuickReads]:
    """Quick reads of the installation."""
    with closing(QuickReads(backend.database.url, backend.log)) as reads:
        yield reads


@pytest.fixture
def token(backend: Backend, application: str) -> str:
    """The token of an application with two chats of three that are left, and four messages of five."""
    for _ in range(3):
        backend.acceptor.accept(AcceptRequest.chats(application))
    texts = [*(fields["text"] for fields in MESSAGES), "morning", "good Morning", "evening"]
    backend.acceptor.accept(AcceptRequest.messages(application, 1, texts))
    backend.drainer.drain_all()
    backend.catalog.messages.edit(application, 1, 3, {"text": "Good morning"})
    backend.catalog.messages.delete(application, 1, 5)
    backend.catalog.chats.delete(application, 3)
    return application


def test_they_show_what_the_catalog_shows(backend: Backend, quick: QuickReads, token: str) -> None:
    """Texts, times of edits and live counts."""
    assert_same(backend, quick, token, token)


def test_a_current_token_names_its_application(
    backend: Backend, quick: QuickReads, token: str
) -> None:
    """The one that was replaced is left to the catalog, which refuses it."""
    backend.catalog.applications.create("of another token")
    current = backend.catalog.applications.rotate(token).token
    assert_same(backend, quick, current, token)
    with pytest.raises(QuickError):
        quick.message(token, 1, 1)


def test_applications_in_other_shards_are_listed(
    backend: Backend, quick: QuickReads, token: str
) -> None:
    """What is counted of one that has moved is left to the catalog, where its token hashes it to."""
    backend.catalog.applications.create("not moved")
    assert backend.resharder.separate(token)
    listed = list(map(serialization.application, backend.catalog.applications.list()))
    assert quick.applications(after=None, limit=9) == listed
    with pytest.raises(QuickError):
        quick.application(token)
    assert quick.message(token, 1, 3)["text"] == "Good morning"


def assert_same(backend: Backend, quick: QuickReads, token: str, original: str) -> None:
    catalog = backend.catalog
    application = serialization.application(catalog.applications.get(original))
    assert quick.application(token) == application
    assert application["chats_count"] == 2

    every = list(map(serialization.application, catalog.applications.list()))
    assert quick.applications(after=None, limit=9) == every
    assert quick.applications(after=None, limit=1) == every[:1]
    if every[1:]:
        assert quick.applications(after=token, limit=9) == every[1:]

    assert quick.application_settings(token) == (None, None)
    backend.retention.set(original, 3600)
    backend.rate_limits.set(original, 100)
    assert quick.application_settings(token) == (3600, 100)

    chats = list(map(serialization.chat, catalog.chats.list(original)))
    assert [chat["messages_count"] for chat in chats] == [4, 0]
    assert quick.chats(token, after=0, limit=9) == chats
    assert quick.chats(token, after=0, limit=1) == chats[:1]
    assert quick.chats(token, after=2, limit=9) == []
    chat = catalog.chats.get(original, 1)
    assert isinstance(chat, Chat)
    assert quick.chat(token, 1) == serialization.chat(chat)

    messages = list(map(serialization.message, catalog.messages.list(original, 1)))
    assert quick.messages(token, 1, **WHOLE_CHAT, limit=9) == messages
    assert quick.messages(token, 1, after=1, before=4, limit=1) == messages[1:2]
    assert quick.messages(token, 2, **WHOLE_CHAT, limit=9) == []
    assert quick.newest_messages(token, 1, **WHOLE_CHAT, limit=2) == messages[:1:-1]
    assert quick.newest_page(token, 1, limit=2) == (messages[:1:-1], True, 4)
    assert quick.newest_page(token, 1, limit=9) == (messages[::-1], False, 4)
    assert quick.newest_page(token, 2, limit=9) == ([], False, 0)
    message = catalog.messages.get(original, 1, 3)
    assert isinstance(message, Message)
    assert quick.message(token, 1, 3) == serialization.message(message)

    matches = list(map(serialization.match, catalog.messages.search(original, 1, "MORNING")))
    assert len(matches) == 2
    assert quick.search(token, 1, "MORNING", after=0, limit=9) == matches
    assert quick.search(token, 1, "MORNING", after=0, limit=1) == matches[:1]
    assert quick.search(token, 1, "nowhere", after=0, limit=9) == []


@pytest.mark.parametrize(
    "read",
    [
        lambda quick, _: quick.application(UNKNOWN),
        lambda quick, _: quick.application_settings(UNKNOWN),
        lambda quick, _: quick.applications(after=UNKNOWN, limit=9),
        lambda quick, _: quick.chats(UNKNOWN, after=0, limit=9),
        lambda quick, token: quick.chat(token, 3),  # removed
        lambda quick, token: quick.chat(token, 4),  # accepted
        lambda quick, token: quick.chat(token, 5),
        lambda quick, token: quick.messages(token, 4, **WHOLE_CHAT, limit=9),
        lambda quick, token: quick.newest_page(token, 4, limit=9),
        lambda quick, token: quick.message(token, 1, 5),  # removed
        lambda quick, token: quick.message(token, 1, 6),  # accepted
        lambda quick, token: quick.message(token, 1, 7),
        lambda quick, token: quick.search(token, 4, "x", after=0, limit=9),
    ],
)
def test_what_is_not_stored_is_left_to_the_catalog(
    backend: Backend, quick: QuickReads, token: str, read: Callable[[QuickReads, str], Any]
) -> None:
    """Which waits for what is accepted, and says what became of the rest."""
    backend.acceptor.accept(AcceptRequest.chats(token))
    backend.acceptor.accept(AcceptRequest.messages(token, 1, ["accepted"]))
    with pytest.raises(QuickError):
        read(quick, token)


def test_no_such_token_or_number_is_not_found(quick: QuickReads, token: str) -> None:
    """No engine is asked."""
    with pytest.raises(NotFound):
        quick.application("x")
    with pytest.raises(NotFound):
        quick.message(token, 1, 0)


@pytest.mark.parametrize(
    "show",
    [
        lambda quick, token: quick.application(token),
        lambda quick, _: quick.applications(after=None, limit=9),
        lambda quick, token: quick.chats(token, after=0, limit=9),
        lambda quick, token: quick.chat(token, 1),
        lambda quick, token: quick.newest_page(token, 1, limit=9),
    ],
)
def test_a_live_count_is_that_of_one_moment(
    backend: Backend,
    quick: QuickReads,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    show: Callable[[QuickReads, str], Any],
) -> None:
    """What is deleted between the two reads leaves it to the catalog; so does a counter that is missing."""
    read_issued = backend.log.read_issued_each

    def change(parents: Any) -> dict[Parent, int | None]:
        monkeypatch.undo()
        backend.catalog.messages.delete(token, 1, 1)
        backend.catalog.chats.delete(token, 2)
        return read_issued(parents)

    monkeypatch.setattr(backend.log, "read_issued_each", change)
    with pytest.raises(QuickError):
        show(quick, token)
    show(quick, token)
    for key in backend.log.redis.scan_iter(f"*{token}*"):
        backend.log.redis.delete(key)
    with pytest.raises(QuickError):
        show(quick, token)
    backend.catalog.applications.get(token)
    list(backend.catalog.chats.list(token))
    show(quick, token)


def test_a_long_chat_is_searched_by_the_catalog(
    backend: Backend, quick: QuickReads, token: str
) -> None:
    """Unless the page is full before."""
    for _ in range(SCANNED_NUMBERS // 1_000):
        backend.acceptor.accept(AcceptRequest.messages(token, 2, ["filled"] * 1_000))
    backend.acceptor.accept(AcceptRequest.messages(token, 2, ["last"]))
    backend.drainer.drain_all()
    assert len(quick.search(token, 2, "fill", after=0, limit=9)) == 9
    for limit in (1, 9):
        with pytest.raises(QuickError):
            quick.search(token, 2, "last", after=0, limit=limit)
    assert len(quick.search(token, 2, "last", after=9, limit=9)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alembic_version SET version_num = '0001'",
        "UPDATE installation SET compatible_since = '9999'",
        "ALTER TABLE installation RENAME COLUMN rotations TO renamed",
    ],
)
def test_another_schema_is_left_to_the_catalog(
    backend: Backend, quick: QuickReads, token: str, change: str
) -> None:
    """Which says what to do, or migrates a private database."""
    with backend.database.begin() as tx:
        tx.execute(text(change))
    with pytest.raises(QuickError):
        quick.application(token)


def test_a_newer_schema_that_admits_this_program_is_read(
    backend: Backend, quick: QuickReads, token: str
) -> None:
    with backend.database.begin() as tx:
        newer = f"{int(SCHEMA) + 1:04}"
        tx.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": newer})
    assert quick.application(token)["token"] == token


def test_a_postgresql_that_is_away_is_named_at_once(backend: Backend) -> None:
    """A second attempt, by the catalog, would take as long."""
    with pytest.raises(EngineDown, match=r"PostgreSQL at .* can.t be used"):
        QuickReads("postgresql://127.0.0.1:1/none", backend.log).application(UNKNOWN)


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql://h/d?nonsense=1", "host=h"])
def test_an_unusable_url_is_left_to_the_catalog(backend: Backend, url: str) -> None:
    """Which names it without its password."""
    with pytest.raises(QuickError):
        QuickReads(url, backend.log).application(UNKNOWN)
