"""The budget of a page of a search: how much is folded and highlighted for it. A search can be given up."""

import threading
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.search import budget, searcher
from backend.search.budget import SearchBudget, SearchCancelled

DEAR = "\ufdfa" * 100  # folds to 1,800 code points


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """A chat with ten messages that all contain the keyword `صلى`, and ten with many `a`."""
    backend.acceptor.accept(AcceptRequest.chats(application, 2))
    backend.acceptor.accept(AcceptRequest.messages(application, 1, [DEAR] * 10))
    backend.acceptor.accept(AcceptRequest.messages(application, 2, ["a" * 100] * 10))
    backend.drainer.drain_all()
    return application


def pages(backend: Backend, token: str, chat: int, keyword: str, **limits: Any) -> list[list[int]]:
    """The numbers of all pages, each with a budget of its own."""
    found: list[list[int]] = [[]]
    after = 0
    while True:
        matches = backend.catalog.messages.search(
            token, chat, keyword, after=after, limit=8, budget=SearchBudget(**limits)
        )
        page, incomplete = matches.read_all()
        assert incomplete is None
        found.append([match.message.number for match in page])
        if not matches.is_cut and len(page) < 8:
            return found[1:]
        after = page[-1].message.number


def test_a_page_ends_where_its_folded_texts_are_long(backend: Backend, chat: str) -> None:
    """The next page goes on behind it."""
    found = pages(backend, chat, 1, "صلى", length=4_000)

    assert [len(page) for page in found] == [3, 3, 3, 1]
    assert [number for page in found for number in page] == list(range(1, 11))


def test_a_page_ends_where_its_texts_are_long_before_they_are_folded(
    backend: Backend, chat: str
) -> None:
    """Tatweel is dropped, but it has to be read, and answered."""
    backend.acceptor.accept(AcceptRequest.messages(chat, 2, ["\u0640" * 999 + "z"] * 5))
    backend.drainer.drain_all()
    assert pages(backend, chat, 2, "z", length=2_000) == [[11, 12], [13, 14], [15]]


def test_a_page_ends_where_it_has_many_highlights(backend: Backend, chat: str) -> None:
    found = pages(backend, chat, 2, "a", highlights=150)

    assert [len(page) for page in found] == [2, 2, 2, 2, 2]


def test_a_page_has_a_message_however_small_its_budget_is(backend: Backend, chat: str) -> None:
    found = pages(backend, chat, 2, "a", length=1, highlights=1)

    assert [number for page in found for number in page] == list(range(1, 11))


def test_usual_pages_are_not_cut() -> None:
    """200 messages of 2,000 letters each, with the keyword in each of them a few times."""
    page = budget.page_budget(lambda: False)
    for _ in range(200):
        assert not page.is_spent
        page.charge(2_000, 10)


def test_a_search_that_is_given_up_ends_before_its_next_message(
    backend: Backend, chat: str
) -> None:
    given_up = threading.Event()
    matches = backend.catalog.messages.search(
        chat, 1, "صلى", budget=SearchBudget(is_cancelled=given_up.is_set)
    )
    assert next(matches).message.number == 1
    assert next(matches).message.number == 2
    given_up.set()
    with pytest.raises(SearchCancelled):
        next(matches)


def test_a_search_that_is_given_up_ends_its_scan(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan of a large chat takes steps. The last of them would find the keyword."""
    monkeypatch.setattr(searcher, "SCAN_STEP_ROWS", 2)
    monkeypatch.setattr(searcher, "QUICK_STEP_SECONDS", 0)
    backend.acceptor.accept(AcceptRequest.messages(chat, 2, ["needle"]))
    backend.drainer.drain_all()
    steps: list[int] = []

    def cancel_third() -> bool:
        steps.append(1)
        return len(steps) == 3

    search = backend.catalog.messages.search
    with pytest.raises(SearchCancelled):
        list(search(chat, 2, "needle", budget=SearchBudget(is_cancelled=cancel_third)))
    assert [match.message.number for match in search(chat, 2, "needle")] == [11]
    assert len(list(search(chat, 2, "a"))) == 10
