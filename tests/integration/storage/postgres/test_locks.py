"""Locks: what a holder releases is free at once."""

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.storage.postgres import locks


def test_the_reindex_lock_is_free_as_soon_as_its_holder_leaves(backend: Backend) -> None:
    """Without waiting until PostgreSQL has noticed that the holder's connection is closed."""
    for _ in range(30):
        with locks.exclusive_reindex(backend.database):
            pass


def test_a_broken_connection_hides_no_interruption(backend: Backend) -> None:
    """Ctrl-C amid a statement leaves a connection that can't be used; the lock is gone with it."""

    def interrupted() -> None:
        with locks.exclusive_reindex(backend.database) as connection:
            connection.execute(text("SELECT 1"))
            connection.invalidate()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with locks.exclusive_reindex(backend.database):
        pass
