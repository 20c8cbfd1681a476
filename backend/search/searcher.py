"""Searches one chat for the messages whose text contains a keyword.

Without Elasticsearch, PostgreSQL scans the chat's folded texts: always up to date, and fast up to about
100,000 messages a chat. With Elasticsearch, the index returns candidates. To these a search adds the chat's
tail, the messages that the index cannot know yet, and PostgreSQL decides which of both contain the keyword
now. So a search finds what is stored when it is asked, and never a text that was edited away or deleted.
Where the index does not answer, or the tail is too long, PostgreSQL scans as much of the chat as time allows;
if that is not enough, the page says that it may lack messages. The same module folds texts and keywords, so
both ways of searching find the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from backend.domain.errors import InstaChatError, NoIndex, Unavailable
from backend.domain.folding import fold, fold_keyword, highlight_in
from backend.domain.model import Match, Message, MessageKey
from backend.search.budget import SearchBudget
from backend.storage.postgres import messages, search_indices, search_tail, statements
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.search_tail import SearchState, Tail
from backend.storage.search_index import IndexMissing, IndexUnusable, SearchIndex

# Candidates requested beyond the limit. A candidate for a keyword of one gram contains it, unless the message
# has just changed.
ONE_GRAM_SPARES = 10
# The grams of a longer keyword may stand apart in a candidate. With 100 spares, one request fills 299 of 300
# pages; with 10 spares, 290.
LONG_KEYWORD_SPARES = 100
MAX_CANDIDATES = 5_000  # per request
# What PostgreSQL scans for one page while the index can't be used.
MAX_SCANNED_ROWS = 100_000
SCAN_SECONDS = 1.0
SCAN_STEP_ROWS = 2_000  # of 10,000 characters each, it takes a fraction of SCAN_SECONDS
QUICK_STEP_SECONDS = 0.05  # a scan's next step has more rows after one that was quicker
RETRY_SECONDS = 1.0  # for which an index that did not answer is not asked again

T = TypeVar("T")


class SearchPage(NamedTuple):
    """Messages that contain a keyword, by number.

    `incomplete` is None if these are all of the page; otherwise it says why some may be missing.
    """

    messages: Sequence[Message]
    incomplete: str | None = None


class Candidates(NamedTuple):
    """Numbers of messages that may contain a keyword, ascending, and whether no others follow them."""

    numbers: Sequence[int]
    are_all: bool


class Searcher(Protocol):
    """One way of searching."""

    def search(
        self,
        chat_id: int,
        keyword: str,
        after: int,
        limit: int,
        check: Callable[[], None] = lambda: None,
    ) -> SearchPage:
        """Up to `limit` messages of the chat, above number `after`, that contain the folded keyword.

        `check` is called between the steps of a long search, to end it by what it raises.
        """

    def covers(self, chat_id: int, first: int, last: int) -> bool:
        """Whether a search finds every stored message of the chat from `first` to `last`."""


class ScanSearcher:
    """Searches by scanning a chat's folded texts in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def search(
        self,
        chat_id: int,
        keyword: str,
        after: int,
        limit: int,
        check: Callable[[], None] = lambda: None,
    ) -> SearchPage:
        """See Searcher."""
        found: list[Message] = []
        rows = SCAN_STEP_ROWS
        with self._database.connect() as connection:
            while True:
                began = time.monotonic()
                end = messages.range_end(connection, chat_id, after, rows)
                left = limit - len(found)
                if end is None:
                    found += messages.search_messages(connection, chat_id, keyword, after, left)
                    return SearchPage(found)
                found += messages.search_range(connection, chat_id, keyword, after, end, left)
                if len(found) == limit:
                    return SearchPage(found)
                after = end
                check()
                if time.monotonic() - began < QUICK_STEP_SECONDS:
                    rows *= 4

    def covers(self, chat_id: int, first: int, last: int) -> bool:  # noqa: ARG002  # as in Searcher
        """True: a scan finds every stored message."""
        return True


class IndexSearcher:
    """Searches the index for candidates, which PostgreSQL verifies together with the chat's tail."""

    def __init__(self, database: Database, index: SearchIndex) -> None:
        self._database = database
        self._index = index
        self._not_asked_until = 0.0  # by monotonic
        # The message of the last failure; an error object would grow with each raise.
        self._failure = ""

    def search(
        self,
        chat_id: int,
        keyword: str,
        after: int,
        limit: int,
        check: Callable[[], None] = lambda: None,
    ) -> SearchPage:
        """See Searcher. An engine of the index that is away makes it slower, or incomplete."""
        query = _Query(chat_id, keyword, after, limit)
        # One connection for all requests, because checking one out takes time. It is in autocommit.
        with self._database.connect() as connection:
            # The tail first: what leaves it from now on, the index shows.
            state = search_tail.read_search_state(connection, chat_id, after)
            if state.tail.complete:
                try:
                    return SearchPage(self._search_index(connection, query, state))
                except Unavailable as error:
                    cause = _cause(error)
            else:
                cause = "too many of the chat's messages are not in the search index yet"
            check()
            return self._search_without_index(connection, query, state, cause)

    def covers(self, chat_id: int, first: int, last: int) -> bool:
        """See Searcher. Raises as the index does, if only the index can tell."""
        with self._database.connect() as connection:
            state = search_tail.read_search_state(connection, chat_id, first - 1)
            stored = messages.count_indexed(connection, chat_id, first, last)
            if state.tail.count_between(first, last) >= stored:
                return True
            if messages.range_end(connection, chat_id, 0, MAX_SCANNED_ROWS) is None:
                return True
        live = _require_live(state.live)
        try:
            return self._index.count_documents(live.name, chat_id, first, last) >= stored
        except IndexMissing:
            if live.made:
                raise
            return False

    @property
    def asks_index(self) -> bool:
        """Whether it asks the index: for a moment not, after the index did not answer."""
        return time.monotonic() >= self._not_asked_until

    def first_candidates(
        self, name: str, chat_id: int, keyword: str, after: int, limit: int
    ) -> Candidates:
        """The index's first candidates for a page. Raises as the index does."""
        size = limit + self._spares(keyword)
        numbers = self._ask_index(name, _Query(chat_id, keyword, after, limit), size)
        return Candidates(numbers, len(numbers) < size)

    def candidates_in_chats(
        self, name: str, chat_ids: Sequence[int], keyword: str, size: int
    ) -> list[MessageKey]:
        """As the index's, but one that did not answer is not asked again for a moment."""
        return self._ask(lambda: self._index.candidates_in_chats(name, chat_ids, keyword, size))

    def _spares(self, keyword: str) -> int:
        """How many candidates to request beyond the limit."""
        one_gram = len(keyword) <= self._index.max_gram_length
        return ONE_GRAM_SPARES if one_gram else LONG_KEYWORD_SPARES

    def _search_index(
        self, connection: Connection, query: "_Query", state: SearchState
    ) -> list[Message]:
        """What the index's candidates and the tail have of a page, by number.

        Raises NoIndex if no index holds all messages, and Unavailable if the index does not answer.
        """
        live = _require_live(state.live)
        size = query.limit + self._spares(query.keyword)
        found: list[Message] = []
        while True:
            try:
                numbers = self._ask_index(live.name, query, size)
            except IndexMissing:
                if live.made:
                    raise
                numbers = []  # no message was published yet
            is_last = len(numbers) < size
            through = None if is_last else numbers[-1]
            page = _decide(connection, query, numbers, state.tail, through)
            found += page
            if len(page) == query.limit or is_last:
                return found
            query = query.rest_after(numbers[-1], len(page))
            size = min(size * 4, MAX_CANDIDATES)

    def _ask_index(self, name: str, query: "_Query", size: int) -> list[int]:
        return self._ask(
            lambda: self._index.candidates(name, query.chat_id, query.keyword, query.after, size)
        )

    def _ask(self, call: Callable[[], T]) -> T:
        """The index's answer. One that did not answer is not asked again for a moment."""
        if not self.asks_index:
            raise Unavailable(self._failure)
        try:
            return call()
        except IndexUnusable:
            raise  # quickly, and as long as somebody does nothing about it
        except Unavailable as error:
            self._failure = error.message
            self._not_asked_until = time.monotonic() + RETRY_SECONDS
            raise

    def _search_without_index(
        self, connection: Connection, query: "_Query", state: SearchState, cause: str
    ) -> SearchPage:
        """A page from a bounded scan; where that ends early, also from what else is known."""
        found, reached = _scan(connection, query)
        if len(found) == query.limit or reached is None:
            return SearchPage(found)
        rest = query.rest_after(reached, len(found))
        try:
            found += self._search_index(connection, rest, state)
        except Unavailable:
            found += _decide(connection, rest, [], state.tail, None)
        return SearchPage(found, f"{cause}; messages after number {reached} may be missing")


class _Query(NamedTuple):
    """A page: the first `limit` messages of a chat above `after` that contain the folded keyword."""

    chat_id: int
    keyword: str
    after: int
    limit: int

    def rest_after(self, number: int, found: int) -> "_Query":
        """What is left of it after a number, if so many are found up to there."""
        return self._replace(after=number, limit=self.limit - found)


def _decide(
    connection: Connection,
    query: _Query,
    candidates: Sequence[int],
    tail: Tail,
    through: int | None,
) -> list[Message]:
    """The page among candidates and the tail up to a number, or to the end, each message once."""

    def in_page(number: int) -> bool:
        return number > query.after and (through is None or number <= through)

    chat_id, keyword, after, limit = query
    numbers = sorted({*candidates, *filter(in_page, tail.numbers)})
    found = {}
    if numbers:
        for message in messages.filter_candidates(connection, chat_id, numbers, keyword, limit):
            found[message.number] = message
    for first, last in tail.ranges:
        start = max(first - 1, after)
        end = last if through is None else min(last, through)
        if start < end:
            for message in messages.search_range(connection, chat_id, keyword, start, end, limit):
                found[message.number] = message
    return [found[number] for number in sorted(found)[:limit]]


def _scan(connection: Connection, query: _Query) -> tuple[list[Message], int | None]:
    """Scan for a page; returns what was found, and the number at which the limits ended it, if they did."""
    chat_id, keyword, after, limit = query
    deadline = time.monotonic() + SCAN_SECONDS
    found: list[Message] = []
    for _ in range(0, MAX_SCANNED_ROWS, SCAN_STEP_ROWS):
        end = messages.range_end(connection, chat_id, after, SCAN_STEP_ROWS)
        left = limit - len(found)
        if end is None:
            found += messages.search_messages(connection, chat_id, keyword, after, left)
            return found, None
        found += messages.search_range(connection, chat_id, keyword, after, end, left)
        after = end
        if len(found) == limit or time.monotonic() > deadline:
            break
    return found, after


def _cause(error: InstaChatError) -> str:
    """Why the index can't be used, without addresses: clients read it, too."""
    if isinstance(error, NoIndex | IndexMissing):
        return "there is no search index of the messages"
    if isinstance(error, IndexUnusable):
        return "the search index can't be used"
    return "the search index does not answer"


def _require_live(index: search_indices.RegisteredIndex | None) -> search_indices.RegisteredIndex:
    if index is None:
        raise NoIndex
    return index


class Matches(Iterator[Match]):
    """The messages of a chat that contain a keyword, by number, each with where it matches.

    Reads a page at a time, so memory is bounded. `incomplete` says why some may be missing among those that
    were read so far; None if none is. `is_cut` says that the budget is spent, and others may follow.
    """

    def __init__(self, matches: Iterator[Match] = iter(())) -> None:  # noqa: B008  # it is empty
        self.incomplete: str | None = None
        self.is_cut = False
        self._matches = matches

    def __next__(self) -> Match:
        return next(self._matches)

    def read_all(self) -> tuple[list[Match], str | None]:
        """All matches, and `incomplete`."""
        found = list(self)
        return found, self.incomplete


def find_matches(
    searcher: Searcher,
    chat_id: int,
    keyword: str,
    *,
    after: int = 0,
    limit: int | None = None,
    budget: SearchBudget | None = None,
) -> Matches:
    """The chat's messages that contain the keyword. Raises Invalid for a keyword that can't be one.

    They end with the message that spends the budget. Raises SearchCancelled as the budget does.
    """
    budget = budget or SearchBudget()
    folded = fold_keyword(keyword)

    def read(after: int, left: int | None) -> Iterator[Match]:
        while left is None or left > 0:
            size = statements.PAGE if left is None else min(left, statements.PAGE)
            page = searcher.search(chat_id, folded, after, size, budget.check)
            found.incomplete = found.incomplete or page.incomplete
            for message in page.messages:
                if budget.is_spent:
                    found.is_cut = True
                    return
                budget.check()
                text = fold(message.text)
                places = highlight_in(message.text, text, folded)
                budget.charge(max(len(message.text), len(text)), len(places))
                yield Match(message, places)
            if len(page.messages) < size:
                return
            after = page.messages[-1].number
            left = None if left is None else left - len(page.messages)

    found = Matches(read(after, limit))
    return found
