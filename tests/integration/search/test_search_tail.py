"""Searches find what is stored: before it is published, before a refresh, and without the index."""

import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from itertools import chain
from urllib.error import HTTPError

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import InstaChatError, Unavailable
from backend.search import searcher
from backend.search.refresh import Refresher
from backend.storage.postgres import search_tail
from backend.storage.search_index import IndexMissing, SearchIndex
from tests.support.elasticsearch.grouped_searches import PAGE_SIZE, GroupedSearches
from tests.support.elasticsearch.requests import (
    live_index_name,
    publish_all,
    publisher,
    query_rows,
    reject_numbers_above_127,
    request_elasticsearch,
    set_blocks,
    store_messages,
)
from tests.support.search_cases import oracle
from tests.support.waiting import PATIENCE_SECONDS, wait_until

OUTBOX = "SELECT count(*), count(published_at) FROM outbox"


@pytest.fixture
def frozen(core: Backend, token: str) -> str:
    """The token; the index has the message "one apple", and does not refresh by itself any more."""
    store_messages(core, token, "one apple")
    publish_all(core)
    request_elasticsearch(
        core, "PUT", f"/{live_index_name(core)}/_settings", {"index.refresh_interval": "-1"}
    )
    Refresher(core.database, index_of(core)).refresh(0)
    return token


def index_of(core: Backend) -> SearchIndex:
    """The backend's index."""
    assert core.index is not None
    return core.index


def find(core: Backend, token: str, keyword: str) -> tuple[list[int], str | None]:
    """The numbers that a search in chat 1 finds, and why some may be missing."""
    found, incomplete = core.catalog.messages.search(token, 1, keyword).read_all()
    return [match.message.number for match in found], incomplete


@contextmanager
def outage(core: Backend) -> Iterator[None]:
    """The index answers no search."""
    set_blocks(core, ["read"], True)
    try:
        yield
    finally:
        set_blocks(core, ["read"], None)


def scan_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan for a page ends after two rows."""
    monkeypatch.setattr(searcher, "MAX_SCANNED_ROWS", 2)
    monkeypatch.setattr(searcher, "SCAN_STEP_ROWS", 2)


# -- the tail -----------------------------------------------------------------------------------------


def test_stored_messages_are_found_before_they_are_published(core: Backend, frozen: str) -> None:
    """Edited messages are found by their new words. Matches are in the order of the numbers, each once."""
    store_messages(core, frozen, "two apples", "a pear", "three apples")
    core.catalog.messages.edit(frozen, 1, 3, {"text": "now an apple"})
    assert find(core, frozen, "apple") == ([1, 2, 3, 4], None)
    core.catalog.messages.edit(frozen, 1, 1, {"text": "one apple, still"})
    core.catalog.messages.edit(frozen, 1, 2, {"text": "nothing"})
    core.catalog.messages.delete(frozen, 1, 4)
    assert find(core, frozen, "apple") == ([1, 3], None)


def test_published_messages_are_found_before_a_refresh(core: Backend, frozen: str) -> None:
    """The outbox keeps the rows until a refresh that began after they were published has ended."""
    store_messages(core, frozen, "two apples")
    core.catalog.messages.edit(frozen, 1, 1, {"text": "no fruit"})
    assert publisher(core).publish() == 2
    assert query_rows(core, OUTBOX) == [(2, 2)]
    assert find(core, frozen, "apple") == ([2], None)
    assert publisher(core).publish() == 0  # published once
    refresher = Refresher(core.database, index_of(core))
    assert refresher.refresh(PATIENCE_SECONDS) == 0  # they are younger
    assert refresher.refresh(0) == 2
    assert query_rows(core, OUTBOX) == [(0, 0)]
    assert find(core, frozen, "apple") == ([2], None)  # by the index alone


def test_messages_published_during_a_refresh_stay_in_the_tail(
    core: Backend, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh may have begun before they were written."""
    store_messages(core, frozen, "two apples")
    publisher(core).publish()
    index = index_of(core)
    refresh = index.refresh

    def refresh_then_publish(name: str) -> None:
        refresh(name)
        store_messages(core, frozen, "three apples")
        publisher(core).publish()

    monkeypatch.setattr(index, "refresh", refresh_then_publish)
    assert Refresher(core.database, index).refresh(0) == 1
    assert query_rows(core, OUTBOX) == [(1, 1)]
    assert find(core, frozen, "apple") == ([1, 2, 3], None)


def test_a_failed_refresh_keeps_the_tail(core: Backend, frozen: str) -> None:
    """An index that is gone is no index that shows the messages."""
    store_messages(core, frozen, "two apples")
    publisher(core).publish()
    request_elasticsearch(core, "DELETE", f"/{live_index_name(core)}")
    with pytest.raises(IndexMissing):
        Refresher(core.database, index_of(core)).refresh(0)
    assert query_rows(core, OUTBOX) == [(1, 1)]


def test_pages_across_index_and_tail_have_every_match_once(core: Backend, frozen: str) -> None:
    """Candidates and tail alternate, in single numbers and in a long range."""
    store_messages(core, frozen, *(f"apple {number}" for number in range(2, 301)))
    publish_all(core)
    Refresher(core.database, index_of(core)).refresh(0)
    store_messages(core, frozen, *(f"apple {number}" for number in range(301, 601)))
    for number in range(1, 301, 7):
        core.catalog.messages.edit(frozen, 1, number, {"text": f"an apple {number}"})
    pages: list[list[int]] = []
    after = 0
    while True:
        found, incomplete = core.catalog.messages.search(
            frozen, 1, "apple", after=after, limit=90
        ).read_all()
        assert incomplete is None
        if not found:
            break
        pages.append([match.message.number for match in found])
        after = pages[-1][-1]
    assert [len(page) for page in pages] == [90] * 6 + [60]
    assert list(chain.from_iterable(pages)) == list(range(1, 601))


def test_messages_that_the_index_rejects_are_found(core: Backend, token: str) -> None:
    """Dead letters of publishing belong to the tail of their chat."""
    reject_numbers_above_127(core)
    store_messages(core, token, *(f"word {number}" for number in range(1, 131)))
    publish_all(core)
    Refresher(core.database, index_of(core)).refresh(0)
    assert query_rows(core, "SELECT count(*) FROM dead_letter") == [(3,)]
    assert query_rows(core, OUTBOX) == [(0, 0)]
    numbers, incomplete = find(core, token, "word")
    assert set(numbers) >= {128, 129, 130}
    assert incomplete is None
    assert core.catalog.messages.wait_searchable(token, 1, 128, 130, 0)


# -- without the index, and far behind it -------------------------------------------------------------


def test_without_the_index_a_small_chat_is_searched_completely(core: Backend, frozen: str) -> None:
    """It does not answer, is lost, or was never built."""
    store_messages(core, frozen, "a pear", "two apples")
    with outage(core):
        assert find(core, frozen, "apple") == ([1, 3], None)
        assert core.catalog.messages.wait_searchable(frozen, 1, 1, 3, 0)
    request_elasticsearch(core, "DELETE", f"/{live_index_name(core)}")
    assert find(core, frozen, "apple") == ([1, 3], None)
    with core.database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM search_index")
    assert find(core, frozen, "apple") == ([1, 3], None)


def test_without_the_index_a_search_of_a_large_chat_says_that_it_is_incomplete(
    core: Backend, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the scan reaches is found, and the tail; a full page is complete."""
    store_messages(core, frozen, "2 apples", "3 apples", "4 apples", "5 pears")
    publish_all(core)
    Refresher(core.database, index_of(core)).refresh(0)
    store_messages(core, frozen, "6 apples")
    scan_little(monkeypatch)
    with outage(core):
        numbers, incomplete = find(core, frozen, "apple")
        assert numbers == [1, 2, 6]
        assert incomplete is not None
        assert "does not answer; messages after number 2 may be missing" in incomplete
        found, incomplete = core.catalog.messages.search(frozen, 1, "apple", limit=2).read_all()
        assert ([match.message.number for match in found], incomplete) == ([1, 2], None)
        assert core.catalog.messages.wait_searchable(frozen, 1, 6, 6, 0)
        assert not core.catalog.messages.wait_searchable(frozen, 1, 4, 4, 0)
    wait_until(lambda: find(core, frozen, "pear") == ([5], None))


def test_an_index_that_did_not_answer_is_not_asked_again_for_a_moment(
    core: Backend, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each search would wait for an Elasticsearch that hangs."""
    asked = []
    errors = []

    def candidates(*_: object) -> list[int]:
        asked.append(1)
        raise Unavailable("away")

    def cause(error: InstaChatError) -> str:
        errors.append(error)
        return error.message

    monkeypatch.setattr(searcher, "_cause", cause)
    monkeypatch.setattr(searcher, "RETRY_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(index_of(core), "candidates", candidates)
    for _ in range(3):
        assert find(core, frozen, "apple") == ([1], None)
    assert len(asked) == 1
    assert [error.message for error in errors] == ["away"] * 3
    assert len(set(map(id, errors))) == 3, "each has a traceback of its own"


def test_a_long_tail_is_searched_completely(
    core: Backend, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat that is too large to be scanned, and whose messages changed in hundreds of transactions."""
    store_messages(core, frozen, "two apples", "a pear")
    store_messages(core, frozen, "four apples")
    repeat = (
        "INSERT INTO outbox (chats, numbers, versions) SELECT chats, numbers, versions"
        " FROM outbox, generate_series(1, 1000) RETURNING id"
    )
    assert len(query_rows(core, repeat)) == 2000
    scan_little(monkeypatch)
    assert find(core, frozen, "apple") == ([1, 2, 4], None)


@pytest.mark.parametrize("limit", ["MAX_TAIL_CHANGES", "MAX_NAMED_CHANGES"])
def test_a_search_with_a_tail_that_is_too_long_scans_or_says_that_it_is_incomplete(
    core: Backend, frozen: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """A small chat is scanned; of a large one, a part is found, and the page says so."""
    for number in range(2, 7):
        store_messages(core, frozen, f"{number} apples")
    monkeypatch.setattr(search_tail, limit, 2)
    monkeypatch.setattr(search_tail, "PARTIAL_TAIL_ROWS", 2)
    assert find(core, frozen, "apple") == ([1, 2, 3, 4, 5, 6], None)
    scan_little(monkeypatch)
    numbers, incomplete = find(core, frozen, "apple")
    assert numbers == sorted(set(numbers))
    assert {1, 2} <= set(numbers) < {1, 2, 3, 4, 5, 6}
    assert incomplete is not None
    assert "after number 2" in incomplete
    publish_all(core)
    Refresher(core.database, index_of(core)).refresh(0)
    assert find(core, frozen, "apple") == ([1, 2, 3, 4, 5, 6], None)


# -- everything at once -------------------------------------------------------------------------------


class Turmoil:
    """Publishes, refreshes, reindexes and breaks the index in threads, until it is stopped."""

    def __init__(self, core: Backend, seed: int) -> None:
        self._core = core
        self._dice = random.Random(seed)
        self._stopping = threading.Event()
        self._done = dict.fromkeys(("publish", "refresh", "reindex", "block"), 0)
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in self._done]
        self.unexpected: list[Exception] = []

    def __enter__(self) -> "Turmoil":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def went_on(self, times: int) -> bool:
        """Whether each of them has been done so often; a failed thread counts as done."""
        return bool(self.unexpected) or min(self._done.values()) >= times

    def _run(self, name: str) -> None:
        act = getattr(self, f"_{name}")
        while not self._stopping.is_set():
            try:
                act()
                self._done[name] += 1
            except InstaChatError:
                pass  # an outage
            except Exception as error:  # noqa: BLE001  # the test states that there was none
                self.unexpected.append(error)
                return
            self._stopping.wait(0.05)

    def _publish(self) -> None:
        publisher(self._core).publish()

    def _refresh(self) -> None:
        Refresher(self._core.database, index_of(self._core)).refresh(0)

    def _reindex(self) -> None:
        assert self._core.reindexer is not None
        self._core.reindexer.build(resume=True)

    def _block(self) -> None:
        alias = live_index_name(self._core).rpartition("-")[0]
        block = self._dice.choice(["read", "write"])

        def set_block(value: bool | None) -> bool:
            try:
                path = f"/{alias}-*/_settings?ignore_unavailable=true"
                request_elasticsearch(self._core, "PUT", path, {f"index.blocks.{block}": value})
            except HTTPError as error:  # a reindex has just deleted one of them
                if error.code == HTTPStatus.NOT_FOUND:
                    return False
                raise
            return True

        wait_until(lambda: set_block(True))
        self._stopping.wait(0.2)
        wait_until(lambda: set_block(None))
        self._stopping.wait(0.5)


def test_searches_agree_with_the_oracle_through_reindexes_and_outages(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing, refreshes, reindexes and outages go on; each search finds exactly what is stored.

    So does each that the fast path does not leave to the ordinary route.
    """
    monkeypatch.setattr(searcher, "RETRY_SECONDS", 0)  # so that most searches ask the index
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    words = ["apple", "pear", "plum", "مرحبا", "grün", "12"]
    texts: list[str] = []
    store_messages(core, token, "the first")
    texts.append("the first")
    with (
        closing(GroupedSearches(core, index_of(core).url)) as grouped,
        Turmoil(core, seed) as turmoil,
    ):
        compared = answered_fast = 0
        while min(compared, 4 * answered_fast) < 80 or not turmoil.went_on(2):
            action = dice.random()
            if action < 0.6:
                new = [" ".join(dice.choices(words, k=3)) for _ in range(dice.randint(1, 20))]
                store_messages(core, token, *new)
                texts += new
            else:
                at = dice.randrange(len(texts))
                if texts[at]:
                    if action < 0.9:
                        texts[at] = " ".join(dice.choices(words, k=3))
                        core.catalog.messages.edit(token, 1, at + 1, {"text": texts[at]})
                    else:
                        texts[at] = ""
                        core.catalog.messages.delete(token, 1, at + 1)
            keyword = dice.choice([*words, "apple pear", "p", "um gr", "first"])
            numbers, incomplete = find(core, token, keyword)
            expected = [at + 1 for at in oracle(texts, keyword)]
            assert incomplete is None
            assert numbers == expected, f"seed {seed}, {keyword!r}"
            compared += 1
            fast = grouped.find(token, keyword)
            assert fast is None or fast == expected[:PAGE_SIZE], f"seed {seed}, {keyword!r}"
            answered_fast += fast is not None
    assert not turmoil.unexpected
