"""What a process knows of the numbers that it has read before."""

import pytest

from backend.api.server import issued_before
from backend.api.server.issued_before import IssuedBefore
from backend.domain.model import Parent

CHAT = Parent("token", 1)


def test_a_number_is_unchanged_since_it_was_first_read() -> None:
    known = IssuedBefore()
    assert not known.is_unchanged_since(CHAT, 9.0)
    known.note({CHAT: 5}, 1.0)
    known.note({CHAT: 5}, 3.0)
    assert known.is_unchanged_since(CHAT, 2.0)
    assert not known.is_unchanged_since(CHAT, 1.0)
    assert not known.is_unchanged_since(Parent("token"), 2.0)


def test_another_number_is_unchanged_since_it_was_read() -> None:
    known = IssuedBefore()
    known.note({CHAT: 5}, 1.0)
    known.note({CHAT: 6}, 3.0)
    assert not known.is_unchanged_since(CHAT, 2.0)
    assert known.is_unchanged_since(CHAT, 4.0)


def test_a_counter_that_is_not_verified_is_forgotten() -> None:
    """It may be another one when it is read again."""
    known = IssuedBefore()
    known.note({CHAT: 5}, 1.0)
    known.note({CHAT: None}, 2.0)
    known.note({CHAT: 5}, 4.0)
    assert not known.is_unchanged_since(CHAT, 3.0)


def test_only_so_many_parents_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issued_before, "MAX_PARENTS", 2)
    known = IssuedBefore()
    for number in range(1, 4):
        known.note({Parent("token", number): 5}, 1.0)
    unchanged = [known.is_unchanged_since(Parent("token", n), 2.0) for n in range(1, 4)]
    assert unchanged == [False, True, True]
