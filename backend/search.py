"""Search: the messages of one chat whose text contains a keyword.

Without Elasticsearch, PostgreSQL scans the chat's folded texts: right at once, and quick up to some
100,000 messages a chat. Text and keyword are folded by the same module, so that every way of searching
finds the same.
"""

from collections.abc import Iterator
from typing import Protocol

from backend import sql
from backend.folding import fold_keyword, highlight
from backend.model import Match, Message
from backend.sql import Database


class Searcher(Protocol):
    """One way of searching."""

    def search(self, chat_id: int, keyword: str, after: int, limit: int) -> list[Message]:
        """At most `limit` messages of the chat behind number `after` that contain the folded keyword."""


class ScanSearcher:
    """Searching by scanning a chat's folded texts in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def search(self, chat_id: int, keyword: str, after: int, limit: int) -> list[Message]:
        """See Searcher."""
        with self._database.connect() as connection:
            return sql.search(connection, chat_id, keyword, after, limit)


def matches(
    searcher: Searcher, chat_id: int, keyword: str, *, after: int = 0, limit: int | None = None
) -> Iterator[Match]:
    """The chat's messages that contain the keyword, by number, each with where it matches.

    Reads a page at a time, so memory is bounded. Raises Invalid for a keyword that can't be one.
    """
    folded = fold_keyword(keyword)
    left = limit
    while left is None or left > 0:
        size = sql.PAGE if left is None else min(left, sql.PAGE)
        page = searcher.search(chat_id, folded, after, size)
        for message in page:
            yield Match(message, highlight(message.text, keyword))
        if len(page) < size:
            return
        after = page[-1].number
        left = None if left is None else left - len(page)
