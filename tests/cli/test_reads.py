"""Reads of the command line: a short list is a quick read, and the catalog reads any other."""

from collections.abc import Iterable
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain import serialization
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from instachat_cli.runtime import reads as reads_module
from instachat_cli.runtime.message_selection import MessageSelection
from instachat_cli.runtime.reads import Reads, open_reads

PAGE = 3
LIMITS = [None, *range(1, 2 * PAGE + 2)]


@pytest.fixture
def filled(core: Backend, token: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An application among seven, with seven chats and seven messages, where a page has three."""
    monkeypatch.setattr(reads_module, "PAGE_ROWS", PAGE)
    for name in range(6):
        core.catalog.applications.create(f"application {name}")
    for _ in range(7):
        core.acceptor.accept(AcceptRequest.chats(token))
    core.acceptor.accept(AcceptRequest.messages(token, 1, [f"text {n}" for n in range(7)]))
    core.drainer.drain_all()
    return token


@pytest.mark.parametrize("limit", LIMITS)
def test_a_list_of_more_than_a_page_is_read_to_its_end(
    installation: Settings, core: Backend, filled: str, limit: int | None
) -> None:
    """As the catalog lists it."""
    catalog = core.catalog
    with open_reads(installation) as reads:
        applications = reads.applications(name=None, after=None, limit=limit)
        assert_same(
            applications, map(serialization.application, catalog.applications.list(limit=limit))
        )
        chats = reads.chats(filled, after=1, limit=limit)
        assert_same(
            chats, map(serialization.chat, catalog.chats.list(filled, after=1, limit=limit))
        )
        found = reads.search(filled, 1, "text", after=1, limit=limit)
        matches = catalog.messages.search(filled, 1, "text", after=1, limit=limit)
        assert_same(found.bodies, map(serialization.match, matches))
        assert found.incomplete() is None


@pytest.mark.parametrize(
    "options",
    [
        *({"limit": limit} for limit in LIMITS),
        *({"last": last} for last in LIMITS),
        {"after": 2},
        {"after": 2, "limit": PAGE + 1},
        {"before": 6},
        {"after": 1, "before": 7, "last": 2},
        {"around": 4, "limit": PAGE},
    ],
    ids=str,
)
def test_selected_messages_are_those_of_the_catalog(
    installation: Settings, core: Backend, filled: str, options: dict[str, int | None]
) -> None:
    """Whichever of them is read quickly."""
    selection = MessageSelection(**options)  # type: ignore[arg-type]
    with open_reads(installation) as reads:
        found = selection.read(core.catalog.messages, filled, 1)
        assert_same(reads.messages(filled, 1, selection), map(serialization.message, found))


def test_a_token_that_is_replaced_meanwhile_does_not_cut_a_list_off(
    installation: Settings, core: Backend, filled: str
) -> None:
    """Neither that of the application, nor that of the last one on a page of applications."""
    with open_reads(installation) as reads:
        messages = reads.messages(filled, 1, MessageSelection())
        applications = reads.applications(name=None, after=None, limit=None)
        first, oldest = next(messages), [next(applications) for _ in range(PAGE)]
        core.catalog.applications.rotate(filled)
        core.catalog.applications.rotate(oldest[-1]["token"])
        assert first["number"] == 1
        assert len(list(messages)) == 6
        assert len(list(applications)) == 7 - PAGE


def test_a_read_of_a_page_opens_nothing_else(
    installation: Settings, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what a quick read leaves to the catalog opens the backend."""
    monkeypatch.delattr(Reads, "_core")
    with open_reads(installation) as reads:
        assert reads.application(filled)["chats_count"] == 7
        assert reads.chat(filled, 1)
        assert len(list(reads.chats(filled, after=0, limit=PAGE))) == PAGE
        assert len(list(reads.chats(filled, after=5, limit=None))) == 2
        assert reads.message(filled, 1, 7)
        assert reads.newest_messages(filled, 1, 7).total == 7
        assert len(list(reads.messages(filled, 1, MessageSelection(last=PAGE)))) == PAGE
        assert len(list(reads.search(filled, 1, "text", after=5, limit=None).bodies)) == 2
        assert len(list(reads.applications(name=None, after=None, limit=PAGE))) == PAGE
        with pytest.raises(AttributeError):
            reads.message(filled, 1, 8)


def assert_same(found: Iterable[dict[str, Any]], expected: Iterable[dict[str, Any]]) -> None:
    """Both have the same bodies, in the same order."""
    assert list(found) == list(expected)
