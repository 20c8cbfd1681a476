"""Locks: what a holder releases is free at once."""

from backend.bootstrap import Backend
from backend.storage.postgres import locks


def test_the_reindex_lock_is_free_as_soon_as_its_holder_leaves(backend: Backend) -> None:
    """Without waiting until PostgreSQL has noticed that the holder's connection is closed."""
    for _ in range(30):
        with locks.exclusive_reindex(backend.database):
            pass
