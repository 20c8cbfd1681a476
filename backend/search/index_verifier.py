"""Verifies that an index has every message at the version of its row, and no other document.

While messages change, the two sides are never equal. So each difference of the first walk is confirmed on its
own: the rows are read, everything written by then is published, the documents are read, then the rows again.
A document that is older than the row was before, or newer than the row is afterwards, is a difference.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice

from backend.domain.model import MessageKey
from backend.search import index_walk
from backend.search.publish import Publisher
from backend.storage.postgres import reindex_state
from backend.storage.postgres.database import Database
from backend.storage.postgres.reindex_state import START_KEY
from backend.storage.search_index import DocumentState, DocumentVersion, SearchIndex

CONFIRM_BATCH_SIZE = 5_000  # differences that are confirmed together


class IndexVerifier:
    """Compares an index with the rows. Thread-safe."""

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def differences(self, name: str, progress: Callable[[int], object]) -> Iterator[MessageKey]:
        """The keys of the messages whose document is wrong, in order.

        Publishes the outbox first. `progress` is called with the number of rows compared so far.
        Raises IndexUnusable, and as `Publisher.wait_published` does.
        """
        self._publisher.wait_published()
        self._index.refresh(name)
        with closing(self._candidate_keys(name, progress)) as candidates:
            while batch := list(islice(candidates, CONFIRM_BATCH_SIZE)):
                yield from self._confirm(name, batch)

    def _candidate_keys(
        self, name: str, progress: Callable[[int], object]
    ) -> Generator[MessageKey, None, None]:
        """The keys at which the two sides differ at first sight."""
        done = 0
        read_documents = partial(self._index.read_versions, name)
        with closing(index_walk.paired_pages(self._row_pages(), read_documents)) as pages:
            for rows, documents in pages:
                yield from _differing_keys(rows, documents)
                done += len(rows)
                progress(done)

    def _row_pages(self) -> Iterator[Sequence[DocumentVersion]]:
        """All rows, each page by a query of its own: a reindex may take hours, too long for a snapshot."""
        after = START_KEY
        while True:
            with self._database.connect() as connection:
                rows = list(
                    reindex_state.list_rows_to_compare(connection, after, index_walk.PAGE_ROWS)
                )
            yield rows
            if len(rows) < index_walk.PAGE_ROWS:
                return
            after = rows[-1][:2]

    def _confirm(self, name: str, keys: Sequence[MessageKey]) -> list[MessageKey]:
        """The keys that still differ after everything written is published."""
        with self._database.connect() as connection:
            before = reindex_state.versions(connection, keys)
        self._publisher.wait_published()
        documents = self._index.read_states(name, keys)
        with self._database.connect() as connection:
            after = reindex_state.versions(connection, keys)
        return [
            key
            for key in keys
            if not _is_consistent(before.get(key), documents.get(key), after.get(key))
        ]


def _differing_keys(
    rows: Sequence[DocumentVersion], documents: Sequence[DocumentVersion]
) -> list[MessageKey]:
    """The keys at which two lists differ, in order."""
    if rows == documents:  # nearly always
        return []
    return sorted({version[:2] for version in set(rows) ^ set(documents)})


def _is_consistent(before: int | None, document: DocumentState | None, after: int | None) -> bool:
    """Whether a document has a version that its row had at some time between the two reads of the row."""
    if document is None:
        return before is None
    if before is not None and document.version < before:
        return False
    if after is not None:
        return document.version <= after
    # The row does not exist (any more): a tombstone may have any version.
    return not document.alive or (before is not None and document.version == before)
