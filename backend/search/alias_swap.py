"""Turning: which indices are kept, and which one is searched, changed so that nobody misses anything.

Whoever changes which are kept holds the flag, once all who write messages have come to an end. Whoever
changes which one is searched holds the publishers, once these have.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import starmap

from sqlalchemy import Connection

from backend.domain.errors import EngineDown, Unavailable
from backend.search.publish import Publisher
from backend.storage.elasticsearch.index import Document, Index
from backend.storage.postgres import Database, outbox, reindex_state, search_indices

FLAG_TRIES = 10  # of two seconds at most, in which others wait
FLAG_PAUSE_SECONDS = 0.5
TURN_TRIES = 5
TURN_SECONDS = 5.0  # in which all publishers are through with a bulk


def under_flag(database: Database, change: Callable[[Connection], None]) -> None:
    """Change which indices are kept, once all who write messages have come to an end.

    Raises Unavailable if one of them does not; nothing is changed then.
    """
    for tried in range(1, FLAG_TRIES + 1):
        try:
            with database.begin() as tx:
                search_indices.lock_flag(tx)
                change(tx)
                return
        except EngineDown:
            raise
        except Unavailable:  # one of them takes long; all others wait behind us, so we step back
            if tried == FLAG_TRIES:
                raise
            time.sleep(FLAG_PAUSE_SECONDS)


def forget(tx: Connection, name: str) -> None:
    """Keep an index no longer; without any, changes need not be noted. The caller holds the flag."""
    search_indices.forget_index(tx, name)
    if not search_indices.indices(tx):
        forget_all(tx)


def forget_all(tx: Connection) -> None:
    """Keep no index, and note no changes any more. The caller holds the flag."""
    search_indices.forget_all(tx)
    search_indices.set_publishing(tx, False)


class Turner:
    """Has searches read another index, from one moment to the next. Thread-safe.

    All that a search could find before, it finds after. Raises Unavailable, changing nothing, if a publisher
    does not come to an end, and as Elasticsearch is.
    """

    def __init__(self, database: Database, index: Index, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def turn(self, name: str) -> str | None:
        """Have searches read an index that is kept; returns the one before, if that is kept on.

        SQL commits right behind the alias: a crash between the two leaves it on an index that is kept and
        whole.
        """
        with self._publishers_held() as tx:
            reindex_state.make_live(tx, name)
            self._read_from(tx, name)
            return next(
                (one.name for one in search_indices.indices(tx) if one.state == "previous"), None
            )

    def turn_back(self, name: str) -> None:
        """Have searches read the live index, whatever they read now."""
        with self._publishers_held() as tx:
            self._read_from(tx, name)

    def _read_from(self, tx: Connection, name: str) -> None:
        """Have searches read an index, while publishers are held.

        One of them that failed half-way may have written to the other index only. What it tried is still in
        the outbox, and is written to this one first; then all that was written is made visible.
        """
        for id_ in outbox.waiting(tx):
            self._index.write(name, list(starmap(Document, outbox.changed(tx, [id_]))))
        self._index.refresh(name)
        self._index.read_from(name)

    @contextmanager
    def _publishers_held(self) -> Iterator[Connection]:
        """A transaction while which nobody publishes, and all that was leased is published or let go."""
        for _ in range(TURN_TRIES):
            self._publisher.settle()
            with self._database.begin() as tx:
                if reindex_state.hold_publishers(tx, TURN_SECONDS):
                    yield tx
                    return
        raise Unavailable(
            "some publisher does not come to an end",
            "see the workers' logs; then `instachat reindex --resume`",
        )
