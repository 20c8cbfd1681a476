"""Changes which indices are registered and which one searches read, so that searches miss no message.

Registering or unregistering an index takes the publish lock: it waits until every transaction that writes
messages has ended. Swapping the read alias blocks publishers once their leases have ended.
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

PUBLISH_LOCK_ATTEMPTS = 10  # each of up to two seconds, during which writers wait
PUBLISH_LOCK_RETRY_SECONDS = 0.5
MAX_SWAP_ATTEMPTS = 5
SWAP_TIMEOUT_SECONDS = 5.0  # for all publishers to finish a bulk


def with_publish_lock(database: Database, change: Callable[[Connection], None]) -> None:
    """Run a change of the registered indices once every transaction that writes messages has ended.

    Raises Unavailable, changing nothing, if one of them takes too long.
    """
    for attempt in range(1, PUBLISH_LOCK_ATTEMPTS + 1):
        try:
            with database.begin() as tx:
                locks.lock_publishing(tx)
                change(tx)
                return
        except EngineDown:
            raise
        except Unavailable:
            # One transaction is slow; new writers queue behind this lock, so it is released.
            if attempt == PUBLISH_LOCK_ATTEMPTS:
                raise
            time.sleep(PUBLISH_LOCK_RETRY_SECONDS)


def unregister(tx: Connection, name: str) -> None:
    """Unregister an index; without any left, stop recording changes. The caller holds the publish lock."""
    search_indices.unregister_index(tx, name)
    if not search_indices.list_indices(tx):
        unregister_all(tx)


def unregister_all(tx: Connection) -> None:
    """Unregister all indices and stop recording changes. The caller holds the publish lock."""
    search_indices.unregister_all(tx)
    search_indices.set_publishing(tx, False)


class AliasSwap:
    """Makes searches read another index, atomically. Thread-safe.

    Searches find everything afterwards that they found before. Raises Unavailable, changing nothing, if a
    publisher does not finish in time, and EngineDown or Unavailable as Elasticsearch is.
    """

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def swap(self, name: str, confirm: Callable[[Connection], None]) -> str | None:
        """Make searches read a registered index; returns the previous one, if it stays registered.

        `confirm` is called first in the transaction; what it raises is raised, and nothing is changed. SQL
        commits right after the alias has moved: a crash between the two leaves the alias on an index that is
        registered and complete.
        """
        with self._publishers_paused(confirm) as tx:
            reindex_state.make_live(tx, name)
            self._move_alias(tx, name)
            return next(
                (one.name for one in search_indices.list_indices(tx) if one.state == "previous"),
                None,
            )

    def swap_back(self, name: str, confirm: Callable[[Connection], None]) -> None:
        """Make searches read the live index, after a crash may have left the alias on another.

        `confirm` is as in `swap`.
        """
        with self._publishers_paused(confirm) as tx:
            self._move_alias(tx, name)

    def _move_alias(self, tx: Connection, name: str) -> None:
        """Move the read alias to an index while publishers are blocked.

        A publisher that failed half-way may have written to the other index only. Its messages are still in
        the outbox: they are written to this index first, and everything written is made visible.
        """
        for id_ in outbox.list_row_ids(tx):
            self._index.write(
                name, list(starmap(Document, outbox.list_changed_messages(tx, [id_])))
            )
        self._index.refresh(name)
        self._index.set_read_alias(name)

    @contextmanager
    def _publishers_paused(self, confirm: Callable[[Connection], None]) -> Iterator[Connection]:
        """A transaction during which no publisher works: every lease has ended, published or released."""
        for _ in range(MAX_SWAP_ATTEMPTS):
            self._publisher.wait_published()
            with self._database.begin() as tx:
                confirm(tx)
                if locks.block_publishers(tx, SWAP_TIMEOUT_SECONDS):
                    yield tx
                    return
        raise Unavailable(
            "a publisher does not finish in time",
            "see the workers' logs; then `instachat reindex --resume`",
        )
