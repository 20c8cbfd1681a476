"""Searches one chat for the messages whose text contains a keyword.

Without Elasticsearch, PostgreSQL scans the chat's folded texts: always up to date, and fast up to about
100,000 messages a chat. With Elasticsearch, the index returns candidates, and PostgreSQL decides which of
them contain the keyword now: an index that lags finds a new text a moment later, and never shows a text that
was edited away or deleted. The same module folds texts and keywords, so both ways of searching find the same.
"""

from collections.abc import Iterator
from typing import Protocol

from backend.domain.errors import NoIndex
from backend.domain.folding import fold_keyword, highlight
from backend.domain.model import Match, Message
from backend.storage.postgres import messages, search_indices, statements
from backend.storage.postgres.database import Database
from backend.storage.search_index import IndexMissing, SearchIndex

# Candidates requested beyond the limit. A candidate for a keyword of one gram contains it, unless the message
# has just changed.
ONE_GRAM_SPARES = 10
# The grams of a longer keyword may stand apart in a candidate. With 100 spares, one request fills 299 of 300
# pages; with 10 spares, 290.
LONG_KEYWORD_SPARES = 100
MAX_CANDIDATES = 5_000  # per request


class Searcher(Protocol):
    """One way of searching."""

    def search(self, chat_id: int, keyword: str, after: int, limit: int) -> list[Message]:
        """Up to `limit` messages of the chat, above number `after`, that contain the folded keyword."""

    def covers(self, chat_id: int, first: int, last: int) -> bool:
        """Whether a search finds every stored message of the chat from `first` to `last`."""


class ScanSearcher:
    """Searches by scanning a chat's folded texts in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def search(self, chat_id: int, keyword: str, after: int, limit: int) -> list[Message]:
        """See Searcher."""
        with self._database.connect() as connection:
            return messages.search_messages(connection, chat_id, keyword, after, limit)

    def covers(self, chat_id: int, first: int, last: int) -> bool:  # noqa: ARG002  # as in Searcher
        """True: a scan finds every stored message."""
        return True


class IndexSearcher:
    """Searches the index for candidates, which PostgreSQL verifies."""

    def __init__(self, database: Database, index: SearchIndex) -> None:
        self._database = database
        self._index = index

    def search(self, chat_id: int, keyword: str, after: int, limit: int) -> list[Message]:
        """See Searcher. Raises NoIndex if no index holds all messages."""
        found: list[Message] = []
        one_gram = len(keyword) <= self._index.max_gram_length
        size = limit + (ONE_GRAM_SPARES if one_gram else LONG_KEYWORD_SPARES)
        # One connection for all requests, because checking one out takes time. It is in autocommit.
        with self._database.connect() as connection:
            live = _require_live(search_indices.live_index(connection))
            while True:
                try:
                    numbers = self._index.candidates(live.name, chat_id, keyword, after, size)
                except IndexMissing:
                    if live.made:
                        raise
                    return []  # no message was published yet
                if numbers:
                    left = limit - len(found)
                    found += messages.filter_candidates(connection, chat_id, numbers, keyword, left)
                if len(found) == limit or len(numbers) < size:
                    return found
                after = numbers[-1]
                size = min(size * 4, MAX_CANDIDATES)

    def covers(self, chat_id: int, first: int, last: int) -> bool:
        """See Searcher; raises as `search` does."""
        with self._database.connect() as connection:
            live = _require_live(search_indices.live_index(connection))
            stored = messages.count_indexed(connection, chat_id, first, last)
        try:
            return self._index.count_documents(live.name, chat_id, first, last) >= stored
        except IndexMissing:
            if live.made:
                raise
            return False


def _require_live(index: search_indices.RegisteredIndex | None) -> search_indices.RegisteredIndex:
    if index is None:
        raise NoIndex
    return index


def iter_matches(
    searcher: Searcher, chat_id: int, keyword: str, *, after: int = 0, limit: int | None = None
) -> Iterator[Match]:
    """The chat's messages that contain the keyword, by number, each with where it matches.

    Reads a page at a time, so memory is bounded. Raises Invalid for a keyword that can't be one.
    """
    folded = fold_keyword(keyword)
    left = limit
    while left is None or left > 0:
        size = statements.PAGE if left is None else min(left, statements.PAGE)
        page = searcher.search(chat_id, folded, after, size)
        for message in page:
            yield Match(message, highlight(message.text, keyword))
        if len(page) < size:
            return
        after = page[-1].number
        left = None if left is None else left - len(page)
