"""IndexVerifier: whether an index holds every message at the very version that SQL has, and nothing else.

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

from backend.domain.model import MessageKey
from backend.search.publish import Publisher
from backend.storage.postgres import reindex_state
from backend.storage.postgres.database import Database
from backend.storage.postgres.reindex_state import START_KEY
from backend.storage.search_index import DocumentState, DocumentVersion, SearchIndex

CONFIRM_BATCH_SIZE = 5_000  # differences that are looked at again together
PAGE_ROWS = 10_000  # rows; as many documents as an index gives at once
DOCUMENT_READERS = 2  # of documents: while Elasticsearch finds some, others are read


class _PagePair(NamedTuple):
    """Some rows, one behind the other, the key of the last unless there are no more, and their documents."""

    rows: list[DocumentVersion]
    last: MessageKey | None
    documents: Future[tuple[list[DocumentVersion], bool]]


class IndexVerifier:
    """Compares an index with the rows. Thread-safe."""

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def differences(self, name: str, progress: Callable[[int], object]) -> Iterator[MessageKey]:
        """The keys of messages whose document is not what it should be, in order.

        `progress` is called with the number of rows compared, now and then. Publishes what waits for it.

        Raises IndexMissing, and as publishing does.
        """
        self._publisher.wait_published()
        self._index.refresh(name)
        with closing(self._candidate_keys(name, progress)) as candidates:
            while batch := list(islice(candidates, CONFIRM_BATCH_SIZE)):
                yield from self._confirm(name, batch)

    def _candidate_keys(
        self, name: str, progress: Callable[[int], object]
    ) -> Generator[MessageKey, None, None]:
        """The keys of which the two sides do not say the same."""
        done = 0
        with closing(self._page_pairs(name)) as pages:
            for page in pages:
                for keys in self._differing_in_page(name, page):
                    if keys:  # of one page there may be any number
                        yield from keys
                        progress(done)
                done += len(page.rows)
                progress(done)

    def _differing_in_page(self, name: str, page: _PagePair) -> Iterator[list[MessageKey]]:
        rows, (documents, more) = page.rows, page.documents.result()
        while more:  # than there are rows
            reached = documents[-1][:2]
            here = bisect_right(rows, reached, key=lambda row: row[:2])
            yield _differing_keys(rows[:here], documents)
            rows = rows[here:]
            documents, more = self._index.read_versions(name, reached, page.last, PAGE_ROWS)
        yield _differing_keys(rows, documents)

    def _page_pairs(self, name: str) -> Generator[_PagePair, None, None]:
        """All rows and documents, the next of which come while some are looked at."""
        prefetched: deque[_PagePair] = deque()
        pool = ThreadPoolExecutor(DOCUMENT_READERS, thread_name_prefix="index-verifier")
        try:
            for after, rows, last in self._row_pages():
                size = min(len(rows) + 1, PAGE_ROWS)
                documents = pool.submit(self._index.read_versions, name, after, last, size)
                prefetched.append(_PagePair(rows, last, documents))
                if len(prefetched) > DOCUMENT_READERS:
                    yield prefetched.popleft()
            yield from prefetched
        finally:
            pool.shutdown(cancel_futures=True)

    def _row_pages(self) -> Iterator[tuple[MessageKey, list[DocumentVersion], MessageKey | None]]:
        """Pages of rows: behind which key, the rows, and up to which key; None of the last."""
        after = START_KEY
        while True:
            with self._database.connect() as connection:
                rows = list(reindex_state.list_rows_to_compare(connection, after, PAGE_ROWS))
            last = rows[-1][:2] if len(rows) == PAGE_ROWS else None
            yield after, rows, last
            if last is None:
                return
            after = last

    def _confirm(self, name: str, keys: Sequence[MessageKey]) -> list[MessageKey]:
        """Those that really differ."""
        with self._database.connect() as connection:
            before = reindex_state.versions(connection, keys)
        self._publisher.wait_published()
        held = self._index.read_states(name, keys)
        with self._database.connect() as connection:
            after = reindex_state.versions(connection, keys)
        return [
            key
            for key in keys
            if not _is_consistent(before.get(key), held.get(key), after.get(key))
        ]


def _differing_keys(
    rows: Sequence[DocumentVersion], documents: Sequence[DocumentVersion]
) -> list[MessageKey]:
    """The keys of which two lists do not say the same, in order."""
    if rows == documents:  # nearly always
        return []
    return sorted({version[:2] for version in set(rows) ^ set(documents)})


def _is_consistent(before: int | None, document: DocumentState | None, after: int | None) -> bool:
    """Whether a document is of a version that its row had at some time between two looks at it."""
    if document is None:
        return before is None
    if before is not None and document.version < before:
        return False
    if after is not None:
        return document.version <= after
    # There is no row (any more): one that says so may be of any version.
    return not document.alive or (before is not None and document.version == before)
