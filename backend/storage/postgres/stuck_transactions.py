"""Ends transactions that hold a lock and make no progress: their process was stopped, or is cut off.

No time-out of PostgreSQL frees a lock whose holder sleeps inside COPY. The age of a transaction says little:
on a busy machine, one that works may need long.
"""

import time

from backend.storage.postgres import locks
from backend.storage.postgres.database import Database
from backend.storage.postgres.locks import NamedTransaction


class StuckTransactions:
    """What this process has seen of named transactions. Thread-safe."""

    def __init__(self, database: Database, timeout_seconds: float) -> None:
        """A transaction is stuck once it has made no progress for so long."""
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._since: dict[str, dict[NamedTransaction, float]] = {}
        """By name: when each transaction was first seen at its point, by the monotonic clock."""

    def end(self, name: str) -> bool:
        """Look at the transactions of this name, and end those that are stuck; returns whether any was.

        Call it each time that a lock is found held: between two calls it sees nothing.
        """
        now = time.monotonic()
        earlier = self._since.get(name, {})
        with self._database.connect() as connection:
            found = locks.named_transactions(connection, name)
            since = self._since[name] = {held: earlier.get(held, now) for held in found}
            stuck = [held for held in found if now - since[held] >= self._timeout_seconds]
            ended = [locks.terminate(connection, held) for held in stuck]
        return any(ended)
