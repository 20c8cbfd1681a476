"""Parity: whether an index holds every message at the very version that SQL has, and nothing else.

Both sides are walked in the order of (chat, number), a page at a time, so memory does not grow with their
number. While messages change, the two are never the same; so what differs is looked at again, on its own:
its rows, then the index once all that was known by then is published, then its rows again. A document that
is older than the row was before, or newer than the row is after, is a difference; nothing else is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from backend.index import DocumentState, Index, Version
from backend.publish import Publisher
from backend.sql import Database, reindexing
from backend.sql.reindexing import FIRST, Key

AT_ONCE = 5_000  # differences that are looked at again together
PAGE = 10_000  # rows; as many documents as an index gives at once
READERS = 2  # of documents: while Elasticsearch finds some, others are read


class _Page(NamedTuple):
    """Some rows, one behind the other, and the documents from the first of them to the next page's."""

    rows: list[Version]
    documents: Future[list[Version]]


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
        candidates = self._candidates(name, tell)
        while batch := list(islice(candidates, AT_ONCE)):
            yield from self._confirm(name, batch)

    def _candidates(self, name: str, tell: Callable[[int], object]) -> Iterator[Key]:
        """The keys of which the two sides do not say the same."""
        done = 0
        for page in self._pages(name):
            documents = page.documents.result()
            if page.rows != documents:  # hardly ever
                yield from sorted({key[:2] for key in set(page.rows) ^ set(documents)})
            done += len(page.rows)
            tell(done)

    def _pages(self, name: str) -> Iterator[_Page]:
        """All rows and documents, the next of which come while some are looked at."""
        coming: deque[_Page] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="parity") as pool:
            for after, rows, last in self._rows():
                documents = pool.submit(self._index.versions, name, after, last, len(rows))
                coming.append(_Page(rows, documents))
                if len(coming) > READERS:
                    yield coming.popleft()
            yield from coming

    def _rows(self) -> Iterator[tuple[Key, list[Version], Key | None]]:
        """Pages of rows: behind which key, the rows, and up to which key; None of the last."""
        after = FIRST
        while True:
            with self._database.connect() as connection:
                rows = list(reindexing.compared(connection, after, PAGE))
            last = rows[-1][:2] if len(rows) == PAGE else None
            yield after, rows, last
            if last is None:
                return
            after = last

    def _confirm(self, name: str, keys: Sequence[Key]) -> list[Key]:
        """Those that really differ."""
        with self._database.connect() as connection:
            before = reindexing.versions(connection, keys)
        self._publisher.settle()
        held = self._index.states_of(name, keys)
        with self._database.connect() as connection:
            after = reindexing.versions(connection, keys)
        return [key for key in keys if not _agree(before.get(key), held.get(key), after.get(key))]


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
