"""Walks SQL's rows and an index's documents side by side, in the order of (chat, number).

Both sides are read a page at a time, so memory does not grow with their number.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from backend.domain.model import MessageKey
from backend.storage.postgres.reindex_state import START_KEY

PAGE_ROWS = 10_000  # rows; as many documents as an index returns at once
DOCUMENT_READERS = 2  # threads: the index searches for one page while another is read

State = TypeVar("State", bound=tuple[Any, ...])  # starts with the chat id and the number
DocumentPage: TypeAlias = tuple[Sequence[State], bool]
"""Documents in order, and whether there may be more in the range that was asked for."""

ReadDocuments: TypeAlias = Callable[[MessageKey, MessageKey | None, int], DocumentPage[State]]
"""Reads up to so many documents behind one key, through another or to the end."""


class _RowPage(NamedTuple, Generic[State]):
    """Rows behind the key `after`, through the key `last`; None if there are no more rows."""

    after: MessageKey
    rows: Sequence[State]
    last: MessageKey | None


def paired_pages(
    row_pages: Iterable[Sequence[State]], read_documents: ReadDocuments[State]
) -> Generator[tuple[Sequence[State], Sequence[State]], None, None]:
    """Yield rows and documents of the same range of keys, until both sides are at their end.

    Every page of `row_pages` but the last has PAGE_ROWS rows. Other threads call `read_documents` for the
    next pages while the caller compares one.
    """
    prefetched: deque[tuple[_RowPage[State], Future[DocumentPage[State]]]] = deque()
    pool = ThreadPoolExecutor(DOCUMENT_READERS, thread_name_prefix="index-walk")
    try:
        for page in _with_ranges(row_pages):
            size = min(len(page.rows) + 1, PAGE_ROWS)
            prefetched.append((page, pool.submit(read_documents, page.after, page.last, size)))
            if len(prefetched) > DOCUMENT_READERS:
                yield from _pairs(*prefetched.popleft(), read_documents)
        while prefetched:
            yield from _pairs(*prefetched.popleft(), read_documents)
    finally:
        pool.shutdown(cancel_futures=True)


def split_pages(rows: Iterable[State]) -> Iterator[list[State]]:
    """Split rows into the pages that `paired_pages` takes."""
    remaining = iter(rows)
    while page := list(islice(remaining, PAGE_ROWS)):
        yield page


def _with_ranges(row_pages: Iterable[Sequence[State]]) -> Iterator[_RowPage[State]]:
    after = START_KEY
    for rows in row_pages:
        if len(rows) < PAGE_ROWS:
            yield _RowPage(after, rows, None)
            return
        last = rows[-1][:2]
        yield _RowPage(after, rows, last)
        after = last
    yield _RowPage(after, [], None)


def _pairs(
    page: _RowPage[State],
    first_documents: Future[DocumentPage[State]],
    read_documents: ReadDocuments[State],
) -> Iterator[tuple[Sequence[State], Sequence[State]]]:
    """Split a page of rows where its range has more documents than one request returns."""
    rows, (documents, more) = page.rows, first_documents.result()
    while more:
        reached = documents[-1][:2]
        here = bisect_right(rows, reached, key=lambda row: row[:2])
        yield rows[:here], documents
        rows = rows[here:]
        documents, more = read_documents(reached, page.last, PAGE_ROWS)
    yield rows, documents
