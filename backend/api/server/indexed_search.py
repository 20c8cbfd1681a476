"""Searches with an index on the fast path: two grouped reads, and the index's candidates between them.

The first read finds the live index and the chat's tail; a thread asks the index for candidates; the second
read decides which of both contain the keyword now. The order is that of `IndexSearcher`, and so are the
answers. Whatever is not simply there is left to the ordinary route: an index that does not answer, a tail
that is too long, a page that the first candidates do not fill.

One deadline ends a search, whichever of the three it waits for.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final, NamedTuple

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.server.group_read import READ_TIMEOUT_SECONDS, GroupRead, Read
from backend.domain.errors import InstaChatError
from backend.search.searcher import Candidates, IndexSearcher
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.driver import Rows
from backend.storage.postgres.grouped_reads import ReadValues
from backend.storage.postgres.literals import array_literal
from backend.storage.redis.counters import Issued

MAX_SEARCHES: Final = 1_000  # from the first read to the answer; beyond this, TOO_MANY_CALLS
MAX_SEARCHES_OF_ONE: Final = 500  # application
# A read of a tail counts as so many rows of its batch, because of what it may read in the outbox.
STATE_ROWS: Final = 32

logger = logging.getLogger(__name__)


class IndexedSearches:
    """Searches for one event loop. Not thread-safe."""

    def __init__(self, group: GroupRead, threads: Executor, searcher: IndexSearcher) -> None:
        """`threads` ask the index."""
        self.group = group
        self.threads = threads
        self.searcher = searcher
        self.running: set[_Search] = set()
        self.running_of: Counter[str] = Counter()  # by token

    def submit(self, read: Read) -> None:
        """Search, and tell `read` the rows of its page, in as many columns as `grouped_reads.SEARCHES` has.

        Its values are those of that statement.
        """
        if not self.searcher.asks_index:
            read.fall_back()
        elif len(self.running) >= MAX_SEARCHES or (
            self.running_of[read.values[0]] >= MAX_SEARCHES_OF_ONE
        ):
            read.fail(ProblemException(problems.TOO_MANY_CALLS))
        else:
            _Search(self, read).start()

    def close(self) -> None:
        """End the searches that run; they are not answered."""
        for search in list(self.running):
            search.end()


class _Query(NamedTuple):
    """The values of a search."""

    token: str
    chat: int
    keyword: str
    after: int
    limit: int


class _Search:
    """One search. Its read is told one result, the first one."""

    def __init__(self, searches: IndexedSearches, read: Read) -> None:
        values: Any = read.values
        self.query = _Query(*values)
        self._searches = searches
        self._read = read
        self._tail: Sequence[int] = ()
        self._asking: asyncio.Future[Candidates] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin with the first read."""
        self._searches.running.add(self)
        self._searches.running_of[self.query.token] += 1
        timed_out = ProblemException(problems.CALL_TIMED_OUT)
        self._timer = asyncio.get_running_loop().call_later(
            READ_TIMEOUT_SECONDS, self.fail, timed_out
        )
        self._searches.group.submit(_StateRead(self))

    def ask_index(self, chat_id: int, index: str | None, tail: Sequence[int] | None) -> None:
        """The first read has returned: the live index if there is one, and the tail unless it is too long."""
        if not self._is_running:
            return
        if index is None or tail is None:
            self.fall_back()
            return
        self._tail = tail
        query = self.query
        ask = partial(
            self._searches.searcher.first_candidates,
            index,
            chat_id,
            query.keyword,
            query.after,
            query.limit,
        )
        loop = asyncio.get_running_loop()
        self._asking = loop.run_in_executor(self._searches.threads, ask)
        self._asking.add_done_callback(self._decide)

    def _decide(self, asking: asyncio.Future[Candidates]) -> None:
        """The index has answered, or has not."""
        if asking.cancelled():
            return
        error = asking.exception()
        if not self._is_running:
            return
        if error is None:
            numbers, are_all = asking.result()
            through = None if are_all else numbers[-1]
            in_page = (number for number in self._tail if through is None or number <= through)
            self._tail = ()
            candidates = sorted({*numbers, *in_page})
            self._searches.group.submit(_CandidatesRead(self, candidates, are_all=are_all))
        else:
            if not isinstance(error, InstaChatError):
                logger.error("the index could not be asked", exc_info=error)
            self.fall_back()

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """The rows of the page; once at most, as `fall_back` and `fail`."""
        if self.end():
            try:
                self._read.deliver(rows, issued)
            except Exception as error:
                self._read.fail(error)  # its client must be answered
                raise

    def fall_back(self) -> None:
        """The ordinary route must answer."""
        if self.end():
            self._read.fall_back()

    def fail(self, error: Exception) -> None:
        """It failed, or has taken too long."""
        if self.end():
            self._read.fail(error)

    def end(self) -> bool:
        """Wait for nothing any more. Returns whether it was running."""
        if not self._is_running:
            return False
        self._searches.running.remove(self)
        self._searches.running_of -= Counter([self.query.token])  # which drops those at 0
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()  # a call that waits for a thread is not made any more
        return True

    @property
    def _is_running(self) -> bool:
        return self in self._searches.running


class _Part:
    """A read of a search: it shows no counts, and its failures are the search's."""

    def __init__(self, search: _Search) -> None:
        self.search = search

    def shown_counts(self, rows: Rows) -> None:
        """See Read."""

    def fall_back(self) -> None:
        """See Read."""
        self.search.fall_back()

    def fail(self, error: Exception) -> None:
        """See Read."""
        self.search.fail(error)


class _StateRead(_Part):
    """The first read of a search: what it needs to know before it asks the index."""

    statement = grouped_reads.SEARCH_STATES
    max_rows = STATE_ROWS

    def __init__(self, search: _Search) -> None:
        super().__init__(search)
        query = search.query
        self.values: ReadValues = (query.token, query.chat, query.after)

    def deliver(self, rows: Rows, issued: Issued) -> None:  # noqa: ARG002
        """See Read."""
        _, chat_id, index, tail = rows[0]
        self.search.ask_index(chat_id, index, tail)


class _CandidatesRead(_Part):
    """The second read of a search: which candidates contain the keyword now."""

    statement = grouped_reads.CANDIDATES

    def __init__(self, search: _Search, numbers: Sequence[int], *, are_all: bool) -> None:
        """`numbers` ascend; others may follow them unless these `are_all`."""
        super().__init__(search)
        self._are_all = are_all
        query = search.query
        self.values: ReadValues = (
            query.token,
            query.chat,
            query.keyword,
            array_literal(numbers),
            query.limit,
        )
        self.max_rows = max(query.limit, len(numbers))

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """See Read."""
        if self._are_all or len(rows) == self.search.query.limit:
            self.search.deliver(rows, issued)
        else:
            self.search.fall_back()
