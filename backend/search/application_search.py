"""Searches all chats of an application for the messages whose text contains a keyword, newest first.

With Elasticsearch, the index returns the application's candidates, if they are few. To these a search adds
the tail, and PostgreSQL decides which of both contain the keyword now, as in one chat (`searcher`).

Otherwise PostgreSQL scans one window of time after another, from the newest message back. A page ends with
the window that spends its time or its rows, and says where the next page begins. Before, it reads the
creation times of all messages that are in no recorded block. If these are too many, it searches the chats
with the highest numbers only, and says that the page may lack messages.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from backend.domain.errors import Unavailable
from backend.domain.events import from_micros, to_micros
from backend.domain.folding import fold, fold_keyword, highlight_in
from backend.domain.model import MAX_NUMBER, ApplicationMatch, MessageKey, MessagePosition
from backend.search.budget import SearchBudget
from backend.search.searcher import (
    MAX_SCANNED_ROWS,
    QUICK_STEP_SECONDS,
    SCAN_SECONDS,
    SCAN_STEP_ROWS,
    IndexSearcher,
)
from backend.storage.postgres import application_search, search_indices
from backend.storage.postgres.application_search import MessageOfChat, NumberSpan, Span
from backend.storage.postgres.database import Connection, Database
from backend.storage.search_index import IndexMissing

# The index is asked for the documents of so many chats; Elasticsearch takes up to 65,536 terms.
MAX_INDEX_CHATS = 50_000
MAX_CANDIDATES = 2_000  # of one page, which asks for all of them
SPAN_STEP_CHATS = 200  # whose spans one statement reads
MAX_READ_TIMES = (
    300_000  # creation times that a page reads of messages in no recorded block: about a second
)


class FoundPage(NamedTuple):
    """Messages that contain a keyword, newest first.

    The next page is `before` the position `next`; None if this is the last one. `incomplete` is None if these
    are all of the page; otherwise it says why some may be missing.
    """

    messages: Sequence[MessageOfChat]
    next: MessagePosition | None
    incomplete: str | None = None


class MatchPage(NamedTuple):
    """As FoundPage, with the places of the keyword."""

    matches: Sequence[ApplicationMatch]
    next: MessagePosition | None
    incomplete: str | None


class ApplicationSearcher:
    """Searches all chats of an application. Thread-safe.

    With `index_searcher`, it asks the index that this asks, at the same times.
    """

    def __init__(self, database: Database, index_searcher: IndexSearcher | None) -> None:
        self._database = database
        self._index_searcher = index_searcher

    def search(
        self,
        token: str,
        keyword: str,
        before: MessagePosition | None,
        limit: int,
        check: Callable[[], None] = lambda: None,
        max_read_times: int | None = MAX_READ_TIMES,
    ) -> FoundPage:
        """Up to `limit` of the application's messages before a position that contain the folded keyword.

        With `max_read_times` None, the page is complete, however long that takes. `check` is called between
        the steps of a long search, to end it by what it raises.
        """
        with self._database.connect() as connection:
            keys = self._candidates(connection, token, keyword)
            if keys is None:
                spans, reached = _read_spans(connection, token, before, max_read_times, check)
                page = _scan(connection, token, spans, keyword, before, limit, check)
                if reached is None:
                    return page
                return page._replace(
                    incomplete="the application is too large to be scanned as a whole;"
                    f" messages of chats below number {reached} may be missing"
                )
            check()
            numbers = [NumberSpan(chat_id, number, number) for chat_id, number in sorted(keys)]
            found = application_search.search_spans(
                connection, token, numbers, keyword, before=before, limit=limit
            )
            return FoundPage(found, _last_position(found, limit))

    def _candidates(
        self, connection: Connection, token: str, keyword: str
    ) -> set[MessageKey] | None:
        """All messages of the application that may contain a keyword; None if the index can't tell which.

        Then it can't be used, or the chats, the tail, or the candidates are too many.
        """
        if self._index_searcher is None or not self._index_searcher.asks_index:
            return None
        chats = application_search.list_chats(connection, token, MAX_INDEX_CHATS + 1)
        chat_ids = [chat.id for chat in chats]
        if len(chat_ids) > MAX_INDEX_CHATS:
            return None
        if not chat_ids:
            return set()
        # The tail first: what leaves it from now on, the index shows.
        live = search_indices.live_index(connection)
        tail = application_search.read_tail(connection, token, chat_ids)
        if live is None or tail is None:
            return None
        try:
            found = self._index_searcher.candidates_in_chats(
                live.name, chat_ids, keyword, MAX_CANDIDATES
            )
        except IndexMissing:
            return None if live.made else tail  # no message was published yet
        except Unavailable:
            return None
        return tail.union(found) if len(found) < MAX_CANDIDATES else None


def find_application_matches(
    searcher: ApplicationSearcher,
    token: str,
    keyword: str,
    *,
    before: MessagePosition | None = None,
    limit: int,
    budget: SearchBudget | None = None,
    max_read_times: int | None = MAX_READ_TIMES,
) -> MatchPage:
    """A page of the application's messages that contain the keyword. Raises Invalid if it can't be one.

    It ends with the message that spends the budget. Raises SearchCancelled as the budget does.
    """
    budget = budget or SearchBudget()
    folded = fold_keyword(keyword)
    page = searcher.search(token, folded, before, limit + 1, budget.check, max_read_times)
    matches: list[ApplicationMatch] = []
    for chat, message in page.messages:
        if budget.is_spent or len(matches) == limit:
            return MatchPage(matches, matches[-1].position, page.incomplete)
        budget.check()
        text = fold(message.text)
        places = highlight_in(message.text, text, folded)
        budget.charge(max(len(message.text), len(text)), len(places))
        matches.append(ApplicationMatch(chat, message, places))
    return MatchPage(matches, page.next, page.incomplete)


def _read_spans(
    connection: Connection,
    token: str,
    before: MessagePosition | None,
    max_read_times: int | None,
    check: Callable[[], None],
) -> tuple[list[Span], int | None]:
    """The application's spans; and the number of the last chat whose spans it read, if the limit ended it."""
    spans: list[Span] = []
    read_times = 0
    reached = MAX_NUMBER + 1
    while True:
        check()
        chats = application_search.list_chats(connection, token, SPAN_STEP_CHATS, reached)
        step = application_search.list_spans(connection, [chat.id for chat in chats], before)
        spans += step
        if len(chats) < SPAN_STEP_CHATS:
            return spans, None
        reached = chats[-1].number
        read_times += sum(span.rows for span in step if not span.is_recorded)
        if max_read_times is not None and read_times >= max_read_times:
            return spans, reached


def _scan(
    connection: Connection,
    token: str,
    spans: Sequence[Span],
    keyword: str,
    before: MessagePosition | None,
    limit: int,
    check: Callable[[], None],
) -> FoundPage:
    """Scan windows of time, from the position back, until the page is full or its limits are reached."""
    deadline = time.monotonic() + SCAN_SECONDS
    found: list[MessageOfChat] = []
    rows, scanned = SCAN_STEP_ROWS, 0
    while True:
        check()
        began = time.monotonic()
        since = window_start(spans, before.created_at if before else None, rows)
        in_window = spans if since is None else [span for span in spans if span.latest >= since]
        left = limit - len(found)
        found += application_search.search_spans(
            connection, token, in_window, keyword, since=since, before=before, limit=left
        )
        if len(found) == limit:
            return FoundPage(found, found[-1].position)
        if since is None:
            return FoundPage(found, None)
        before = MessagePosition(since, 0, 0)
        spans = [span for span in spans if span.earliest < since]
        scanned += rows
        if scanned >= MAX_SCANNED_ROWS or time.monotonic() > deadline:
            return FoundPage(found, before)
        if time.monotonic() - began < QUICK_STEP_SECONDS:
            rows *= 4


def window_start(spans: Sequence[Span], until: datetime | None, rows: int) -> datetime | None:
    """Where a window of time that ends with `until` begins, if it is to have about so many rows.

    It is earlier than `until`. None: the spans have no more rows than that. The rows of a span are taken to
    be spread evenly over its time.
    """
    end = to_micros(until) if until else None
    # Where the number of rows in a microsecond changes, and by how much, from the newest time back.
    changes: list[tuple[int, float]] = []
    for span in spans:
        earliest, latest = to_micros(span.earliest), to_micros(span.latest)
        density = span.rows / (latest - earliest + 1)
        changes.append((latest + 1 if end is None else min(latest, end) + 1, density))
        changes.append((earliest, -density))
    changes.sort(reverse=True)
    density = counted = 0.0
    for (newer, change), (older, _) in pairwise(changes):
        density += change
        if density > 0 and counted + density * (newer - older) >= rows:
            start = newer - max(1, int((rows - counted) / density))
            start = start if end is None else min(start, end - 1)
            return from_micros(start) if start > changes[-1][0] else None
        counted += density * (newer - older)
    return None


def _last_position(found: Sequence[MessageOfChat], limit: int) -> MessagePosition | None:
    """Where the next page begins; None if this one is not full."""
    return found[-1].position if len(found) == limit else None
