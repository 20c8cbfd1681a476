"""Rate limits of applications: SQL has them, and the accept script decides by a copy in the counter."""

from dataclasses import dataclass

from backend.domain.model import Parent, checked_token, no_application
from backend.ingest.counters import Counters
from backend.storage.postgres import rate_limits
from backend.storage.postgres.database import Database


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits. Thread-safe."""

    database: Database
    counters: Counters

    def get(self, token: str) -> int | None:
        """How many chats and messages an application may create in a second; None without a limit."""
        with self.database.connect() as connection:
            return rate_limits.find_rate_limit(connection, checked_token(token))

    def set(self, token: str, per_second: int | None) -> None:
        """Set an application's limit, or remove it (None). It holds when this returns, in all processes.

        Raises NotFound. If Redis is away, EngineDown: the limit is stored then, and holds in the next epoch.
        """
        checked_token(token)
        with self.database.begin() as tx:
            if per_second is None:
                rate_limits.unset_rate_limit(tx, token)
            elif not rate_limits.set_rate_limit(tx, token, per_second):
                raise no_application()
        self.counters.verify(Parent(token))  # which brings it into the counter
