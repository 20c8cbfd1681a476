"""Takes messages out of the searches' tail once the index shows them.

A published row of the outbox stays in the tail (`storage.postgres.search_tail`), because only a refresh makes
a document searchable. Elasticsearch refreshes by itself once a second, and does not tell when. So this
refreshes explicitly: afterwards everything that was written before is searchable for certain.
"""

from backend.storage.postgres import outbox, search_indices
from backend.storage.postgres.database import Database
from backend.storage.search_index import SearchIndex

REFRESH_SECONDS = 1.0  # between two refreshes, whatever the number of workers
MAX_ROWS = 5_000  # of the outbox, for one refresh


class Refresher:
    """Refreshes the index that searches read, and deletes the outbox's rows that it shows. Thread-safe."""

    def __init__(self, database: Database, index: SearchIndex) -> None:
        self._database = database
        self._index = index

    def refresh(self, min_age_seconds: float = REFRESH_SECONDS) -> int:
        """Refresh if a row was published so long ago; returns how many rows were deleted.

        Raises EngineDown or Unavailable as Elasticsearch is; every row stays then.
        """
        with self._database.connect() as connection:
            # The order matters: each of these rows was written before the refresh begins.
            ids = outbox.list_published(connection, MAX_ROWS, min_age_seconds)
            live = search_indices.live_index(connection) if ids else None
        if live is None or not live.made:
            return 0
        self._index.refresh(live.name)
        # If a crash of the server undoes this, the rows are deleted after the next refresh.
        with self._database.begin(durable=False) as tx:
            outbox.delete_published(tx, ids)
        return len(ids)
