"""Scans over all chats of an application: their windows of time, and their limits."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.model import MAX_NUMBER, MessagePosition
from backend.ingest.requests import AcceptRequest
from backend.search import application_search
from backend.storage.postgres.application_search import Span

CHATS, MESSAGES = 5, 40


@pytest.fixture
def token(backend: Backend) -> str:
    """An application whose messages have times that do not rise with their numbers, as after an import."""
    token = backend.catalog.applications.create("all").token
    backend.acceptor.accept(AcceptRequest.chats(token, CHATS))
    for chat in range(1, CHATS + 1):
        texts = [f"line {n}" for n in range(MESSAGES)]
        backend.acceptor.accept(AcceptRequest.messages(token, chat, texts))
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        tx.execute(
            text(
                "UPDATE message SET created_at = now() - make_interval(hours => (number * 7 % 41)::int)"
            )
        )
    return token


def test_pages_of_narrow_windows_have_each_message_once_newest_first(
    backend: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that spent its rows may have fewer messages than its limit, or none, and goes on."""
    monkeypatch.setattr(application_search, "SCAN_STEP_ROWS", 3)
    monkeypatch.setattr(application_search, "MAX_SCANNED_ROWS", 6)
    monkeypatch.setattr(application_search, "SPAN_STEP_CHATS", 2)
    found, pages = [], 0
    before: MessagePosition | None = None
    while pages == 0 or before:
        page = backend.catalog.messages.search_application(token, "LINE", before=before, limit=30)
        assert page.incomplete is None
        found += [match.position for match in page.matches]
        before, pages = page.next, pages + 1
    assert len(found) == CHATS * MESSAGES
    assert all(newer > older for newer, older in pairwise(found))


def test_an_application_that_is_too_large_is_searched_in_part_and_the_page_says_so(
    backend: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is of HTTP; the command line has none."""
    monkeypatch.setattr(application_search, "SPAN_STEP_CHATS", 2)
    search = backend.catalog.messages.search_application
    page = search(token, "line 7", limit=50, max_read_times=2 * MESSAGES)
    assert page.incomplete
    assert "below number 4 may be missing" in page.incomplete
    assert {match.chat for match in page.matches} == {4, 5}
    whole = backend.catalog.messages.search_whole_application(token, "line 7")
    assert sorted(match.chat for match in whole) == [1, 2, 3, 4, 5]


def test_a_window_has_about_the_rows_that_are_wanted() -> None:
    """It is never empty of time, and the last one has no beginning."""
    end = datetime(2026, 1, 2, tzinfo=UTC)
    begin = end - timedelta(hours=10)
    span = Span(1, 1, MAX_NUMBER, 1000, begin, end)
    start = application_search.window_start([span], None, 100)
    assert start is not None
    assert abs(start - (end - timedelta(hours=1))) < timedelta(seconds=1)
    assert application_search.window_start([span], end, 1001) is None
    moment = span._replace(earliest=end)
    assert application_search.window_start([moment], end, 10) is None
    assert application_search.window_start([], end, 10) is None
