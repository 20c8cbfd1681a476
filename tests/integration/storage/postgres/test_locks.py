"""Locks: what a holder releases is free at once."""

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.storage.postgres import locks


def test_the_reindex_lock_is_free_as_soon_as_its_block_ends(backend: Backend) -> None:
    """It need not wait until PostgreSQL has noticed that the connection is closed."""
    for _ in range(30):
        with locks.exclusive_reindex(backend.database):
            pass


def test_an_interruption_is_raised_even_if_the_connection_is_broken(backend: Backend) -> None:
    """Ctrl-C during a statement leaves an unusable connection; the lock is gone with it."""

    def interrupted() -> None:
        with locks.exclusive_reindex(backend.database) as connection:
            connection.execute(text("SELECT 1"))
            connection.invalidate()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with locks.exclusive_reindex(backend.database):
        pass
