"""Parity: whether an index holds every message at the very version that SQL has, and nothing else.

Both sides are walked in the order of (chat, number), a page at a time, so memory does not grow with their
number. While messages change, the two are never the same; so what differs is looked at again, on its own:
its rows, then the index once all that was known by then is published, then its rows again. A document that
is older than the row was before, or newer than the row is after, is a difference; nothing else is.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from backend.search.publish import Publisher
from backend.storage.elasticsearch.index import DocumentState, Index, Version
from backend.storage.postgres import Database, reindex_state
from backend.storage.postgres.reindex_state import FIRST, Key

AT_ONCE = 5_000  # differences that are looked at again together
PAGE = 10_000  # rows; as many documents as an index gives at once
READERS = 2  # of documents: while Elasticsearch finds some, others are read


class _Page(NamedTuple):
    """Some rows, one behind the other, the key of the last unless there are no more, and their documents."""

    rows: list[Version]
    last: Key | None
    documents: Future[tuple[list[Version], bool]]


class Parity:
    """Compares an index with the rows. Thread-safe."""

    def __init__(self, database: Database, index: Index, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def differences(self, name: str, tell: Callable[[int], object]) -> Iterator[Key]:
        """The keys of messages whose document is not what it should be, in order.

        `tell` is called with the number of rows compared, now and then. Publishes what waits for it. Raises
        IndexMissing, and as publishing does.
        """
        self._publisher.settle()
        self._index.refresh(name)
        with closing(self._candidates(name, tell)) as candidates:
            while batch := list(islice(candidates, AT_ONCE)):
                yield from self._confirm(name, batch)

    def _candidates(self, name: str, tell: Callable[[int], object]) -> Generator[Key, None, None]:
        """The keys of which the two sides do not say the same."""
        done = 0
        with closing(self._pages(name)) as pages:
            for page in pages:
                for keys in self._differing(name, page):
                    if keys:  # of one page there may be any number
                        yield from keys
                        tell(done)
                done += len(page.rows)
                tell(done)

    def _differing(self, name: str, page: _Page) -> Iterator[list[Key]]:
        rows, (documents, more) = page.rows, page.documents.result()
        while more:  # than there are rows
            reached = documents[-1][:2]
            here = bisect_right(rows, reached, key=lambda row: row[:2])
            yield _unlike(rows[:here], documents)
            rows = rows[here:]
            documents, more = self._index.versions(name, reached, page.last, PAGE)
        yield _unlike(rows, documents)

    def _pages(self, name: str) -> Generator[_Page, None, None]:
        """All rows and documents, the next of which come while some are looked at."""
        coming: deque[_Page] = deque()
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="parity")
        try:
            for after, rows, last in self._rows():
                size = min(len(rows) + 1, PAGE)
                documents = pool.submit(self._index.versions, name, after, last, size)
                coming.append(_Page(rows, last, documents))
                if len(coming) > READERS:
                    yield coming.popleft()
            yield from coming
        finally:
            pool.shutdown(cancel_futures=True)

    def _rows(self) -> Iterator[tuple[Key, list[Version], Key | None]]:
        """Pages of rows: behind which key, the rows, and up to which key; None of the last."""
        after = FIRST
        while True:
            with self._database.connect() as connection:
                rows = list(reindex_state.compared(connection, after, PAGE))
            last = rows[-1][:2] if len(rows) == PAGE else None
            yield after, rows, last
            if last is None:
                return
            after = last

    def _confirm(self, name: str, keys: Sequence[Key]) -> list[Key]:
        """Those that really differ."""
        with self._database.connect() as connection:
            before = reindex_state.versions(connection, keys)
        self._publisher.settle()
        held = self._index.states_of(name, keys)
        with self._database.connect() as connection:
            after = reindex_state.versions(connection, keys)
        return [key for key in keys if not _agree(before.get(key), held.get(key), after.get(key))]


def _unlike(rows: Sequence[Version], documents: Sequence[Version]) -> list[Key]:
    """The keys of which two lists do not say the same, in order."""
    if rows == documents:  # nearly always
        return []
    return sorted({version[:2] for version in set(rows) ^ set(documents)})


def _agree(before: int | None, document: DocumentState | None, after: int | None) -> bool:
    """Whether a document is of a version that its row had at some time between two looks at it."""
    if document is None:
        return before is None
    if before is not None and document.version < before:
        return False
    if after is not None:
        return document.version <= after
    # There is no row (any more): one that says so may be of any version.
    return not document.alive or (before is not None and document.version == before)
