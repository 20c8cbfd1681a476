"""Parity: whether an index holds every message at the very version that SQL has, and nothing else.

Both sides are walked in the order of (chat, number), a page at a time, so memory does not grow with their
number. While messages change, the two are never the same; so what differs is looked at again, on its own:
its rows, then the index once all that was known by then is published, then its rows again. A document that
is older than the row was before, or newer than the row is after, is a difference; nothing else is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice

from backend.index import DocumentState, Index, Version
from backend.publish import Publisher
from backend.sql import Database, reindexing
from backend.sql.reindexing import FIRST, Key

AT_ONCE = 5_000  # differences that are looked at again together
PAGE = 10_000  # rows

Page = list[Version]
_END: Version = (1 << 63, 0, 0)


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
        with closing(self._index.versions(name)) as pages, ThreadPoolExecutor(1) as pool:
            documents = chain.from_iterable(_ahead(pages, pool))
            candidates = _candidates(self._rows(tell), documents)
            while batch := list(islice(candidates, AT_ONCE)):
                yield from self._confirm(name, batch)

    def _rows(self, tell: Callable[[int], object]) -> Iterator[Version]:
        after, done = FIRST, 0
        while True:
            with self._database.connect() as connection:
                page = reindexing.compared(connection, after, PAGE)
            yield from page
            done += len(page)
            tell(done)
            if len(page) < PAGE:
                return
            after = page[-1][0], page[-1][1]

    def _confirm(self, name: str, keys: Sequence[Key]) -> list[Key]:
        """Those that really differ."""
        with self._database.connect() as connection:
            before = reindexing.versions(connection, keys)
        self._publisher.settle()
        held = self._index.states_of(name, keys)
        with self._database.connect() as connection:
            after = reindexing.versions(connection, keys)
        return [key for key in keys if not _agree(before.get(key), held.get(key), after.get(key))]


def _ahead(pages: Iterator[Page], pool: ThreadPoolExecutor) -> Iterator[Page]:
    """Pages, the next of which comes while one is looked at."""
    coming = pool.submit(next, pages, None)
    while (page := coming.result()) is not None:
        coming = pool.submit(next, pages, None)
        yield page


def _candidates(rows: Iterable[Version], documents: Iterator[Version]) -> Iterator[Key]:
    """The keys of which the two sides, each in order, do not say the same."""
    document = next(documents, _END)
    for row in rows:
        if row == document:  # nearly always
            document = next(documents, _END)
            continue
        while document[:2] < row[:2]:
            yield document[:2]
            document = next(documents, _END)
        if row != document:
            yield row[:2]
        if row[:2] == document[:2]:
            document = next(documents, _END)
    for rest in chain([document], documents):
        if rest is not _END:
            yield rest[:2]


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
