"""Changes which indices are registered and which one is searched, so that no change is missed.

Registering or removing an index locks the publishing flag, once the transactions that write messages have
finished. Swapping the alias blocks publishers, once their in-flight leases have finished.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import starmap

from backend.domain.errors import EngineDown, Unavailable
from backend.search.publish import Publisher
from backend.storage.postgres import locks, outbox, reindex_state, search_indices
from backend.storage.postgres.database import Connection, Database
from backend.storage.search_index import Document, SearchIndex

PUBLISH_LOCK_ATTEMPTS = 10  # of two seconds at most, in which others wait
PUBLISH_LOCK_RETRY_SECONDS = 0.5
MAX_SWAP_ATTEMPTS = 5
SWAP_TIMEOUT_SECONDS = 5.0  # in which all publishers are through with a bulk


def with_publish_lock(database: Database, change: Callable[[Connection], None]) -> None:
    """Change which indices are kept, once all who write messages have come to an end.

    Raises Unavailable if one of them does not; nothing is changed then.
    """
    for attempt in range(1, PUBLISH_LOCK_ATTEMPTS + 1):
        try:
            with database.begin() as tx:
                locks.lock_publishing(tx)
                change(tx)
                return
        except EngineDown:
            raise
        except Unavailable:  # one of them takes long; all others wait behind us, so we step back
            if attempt == PUBLISH_LOCK_ATTEMPTS:
                raise
            time.sleep(PUBLISH_LOCK_RETRY_SECONDS)


def unregister(tx: Connection, name: str) -> None:
    """Keep an index no longer; without any, changes need not be noted. The caller holds the flag."""
    search_indices.unregister_index(tx, name)
    if not search_indices.list_indices(tx):
        unregister_all(tx)


def unregister_all(tx: Connection) -> None:
    """Keep no index, and note no changes any more. The caller holds the flag."""
    search_indices.unregister_all(tx)
    search_indices.set_publishing(tx, False)


class AliasSwap:
    """Has searches read another index, from one moment to the next. Thread-safe.

    All that a search could find before, it finds after. Raises Unavailable, changing nothing, if a publisher
    does not come to an end, and as Elasticsearch is.
    """

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def swap(self, name: str) -> str | None:
        """Have searches read an index that is kept; returns the one before, if that is kept on.

        SQL commits right behind the alias: a crash between the two leaves it on an index that is kept and
        whole.
        """
        with self._publishers_paused() as tx:
            reindex_state.make_live(tx, name)
            self._move_alias(tx, name)
            return next(
                (one.name for one in search_indices.list_indices(tx) if one.state == "previous"),
                None,
            )

    def swap_back(self, name: str) -> None:
        """Have searches read the live index, whatever they read now."""
        with self._publishers_paused() as tx:
            self._move_alias(tx, name)

    def _move_alias(self, tx: Connection, name: str) -> None:
        """Have searches read an index, while publishers are held.

        One of them that failed half-way may have written to the other index only. What it tried is still in
        the outbox, and is written to this one first; then all that was written is made visible.
        """
        for id_ in outbox.list_row_ids(tx):
            self._index.write(
                name, list(starmap(Document, outbox.list_changed_messages(tx, [id_])))
            )
        self._index.refresh(name)
        self._index.set_read_alias(name)

    @contextmanager
    def _publishers_paused(self) -> Iterator[Connection]:
        """A transaction while which nobody publishes, and all that was leased is published or let go."""
        for _ in range(MAX_SWAP_ATTEMPTS):
            self._publisher.wait_published()
            with self._database.begin() as tx:
                if locks.block_publishers(tx, SWAP_TIMEOUT_SECONDS):
                    yield tx
                    return
        raise Unavailable(
            "some publisher does not come to an end",
            "see the workers' logs; then `instachat reindex --resume`",
        )
