"""A live count is that of one moment, whatever is deleted and created while it is read."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.catalog import live_counts
from backend.domain.errors import Unavailable
from backend.domain.model import Chat
from backend.ingest.counters import Counters
from backend.ingest.requests import AcceptRequest

MESSAGES = 3


@pytest.fixture
def change_before_counting(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Makes the next reads of counters come after a deletion and then a creation, of a message and a chat."""
    for _ in range(2):
        backend.acceptor.accept(AcceptRequest.chats(application))
    backend.acceptor.accept(AcceptRequest.messages(application, 1, ["text"] * MESSAGES))
    backend.drainer.drain_all()
    left = 0

    def change() -> None:
        nonlocal left
        if not left:
            return
        later, left = left - 1, 0  # what this reads comes without a change
        messages = backend.catalog.messages.list(application, 1, limit=1)
        backend.catalog.messages.delete(application, 1, next(messages).number)
        backend.acceptor.accept(AcceptRequest.messages(application, 1, ["another"]))
        newest = max(chat.number for chat in backend.catalog.chats.list(application))
        backend.catalog.chats.delete(application, newest)
        backend.acceptor.accept(AcceptRequest.chats(application))
        backend.drainer.drain_all()
        left = later

    def changing_before(read: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: object) -> Any:
            change()
            return read(*arguments)

        return changed

    for name in ("read_issued", "read_chats_issued"):
        monkeypatch.setattr(Counters, name, changing_before(getattr(Counters, name)))

    def begin(times: int) -> None:
        nonlocal left
        left = times

    return begin


def count_of_chat(backend: Backend, token: str) -> int:
    """Of the only chat with messages."""
    found = backend.catalog.chats.get(token, 1)
    assert isinstance(found, Chat)
    return found.messages_count


COUNTS: dict[str, tuple[int, Callable[[Backend, str], int]]] = {
    "a chat": (MESSAGES, count_of_chat),
    "a page of messages": (MESSAGES, lambda b, t: b.catalog.messages.page(t, 1, limit=5).total),
    "a page around": (
        MESSAGES,
        lambda b, t: b.catalog.messages.page_around(t, 1, 1, limit=5).total,
    ),
    "some messages": (MESSAGES, lambda b, t: b.catalog.messages.page_of_numbers(t, 1, [1]).total),
    "each chat": (MESSAGES, lambda b, t: next(iter(b.catalog.chats.list(t))).messages_count),
    "a page of chats": (2, lambda b, t: b.catalog.chats.page(t, limit=5).total),
    "an application": (2, lambda b, t: b.catalog.applications.get(t).chats_count),
    "each application": (2, lambda b, _: next(iter(b.catalog.applications.list())).chats_count),
}


@pytest.mark.parametrize("shown", COUNTS)
def test_a_count_is_that_of_a_moment(
    backend: Backend, application: str, change_before_counting: Callable[[int], None], shown: str
) -> None:
    """After each change there are as many as before: one more would be the sum of two moments."""
    count, read = COUNTS[shown]
    change_before_counting(2)
    assert read(backend, application) == count


def test_a_count_that_changes_at_each_look_is_refused(
    backend: Backend,
    application: str,
    change_before_counting: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No wrong count is answered instead; the next read counts."""
    monkeypatch.setattr(live_counts, "MAX_LOOKS", 2)
    change_before_counting(2)
    with pytest.raises(Unavailable):
        count_of_chat(backend, application)
    assert count_of_chat(backend, application) == MESSAGES
