"""Routing: which shard an application is in.

SQL decides: an application's row names its shard. Most applications are where the hash of their token puts
them, so a process assumes that, asks SQL for nothing, and keeps the others in a dictionary. It learns them
when it is wrong: a shard that an application has left, or has never been in, has no counter that would accept
for it, and to verify one reads the application's row. So an outdated route delays a request, and never gives
a wrong answer (ADR 0015).
"""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from backend.domain.model import shard_of
from backend.storage.postgres import placements
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.placements import PlacementRow
from backend.storage.redis.idempotency_keys import IDEMPOTENCY_KEY_TTL_SECONDS

MAX_KNOWN = 200_000  # applications that a process remembers; 40 MB
MAX_RECENT = 4_096  # whose shards are not looked up again
# How long a shard that was left may answer for an application; an hour more, as clocks differ.
LEFT_SHARD_SECONDS = IDEMPOTENCY_KEY_TTL_SECONDS + 3600


class Placement(NamedTuple):
    """The shard of an application, how often it has moved, and the shards that it has left, in order."""

    shard: int
    moves: int = 0
    moved_from: tuple[int, ...] = ()
    moved_at: datetime | None = None

    @property
    def left_shards(self) -> tuple[int, ...]:
        """The shards that still have answers to requests with an idempotency key."""
        return tuple(dict.fromkeys(self.moved_from)) if _is_recent(self.moved_at) else ()


class ApplicationElsewhere(Exception):
    """SQL says that the application is in another shard than the caller assumed; the routing knows it now."""


class Routing:
    """What this process knows of the applications' shards. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Placement] = {}
        self._hashed: range | None = None
        self._lock = threading.Lock()
        self._recent: dict[str, int] = {}  # what `shard` has answered since the last change
        self.changes = 0
        """How often what `shard` answers may have changed."""

    def shard(self, token: str) -> int:
        """The shard that an application is in, as far as this process knows. Reads SQL once a process."""
        shard = self._recent.get(token)
        return self._find(token) if shard is None else shard

    @property
    def is_loaded(self) -> bool:
        """Whether `shard` reads no SQL any more."""
        return self._hashed is not None

    def refresh(self) -> range:
        """Read over which shards tokens are hashed. Raises EngineDown."""
        hashed = self._database.refresh_installation().shards
        with self._lock:
            if self._hashed != hashed:
                self._known.clear()  # most of them are where the hash puts them now
                self._hashed = hashed
                self._forget_recent()
        return hashed

    @property
    def may_have_left_keys(self) -> bool:
        """Whether any application may have idempotency keys in a shard that it has left."""
        return _is_recent(self._database.installation.moved_at)

    def known_placement(self, token: str) -> Placement | None:
        """An application's placement if this process knows it."""
        return self._known.get(token)

    def learn(self, token: str) -> Placement:
        """Read an application's placement from SQL; of an unknown token, where one would be stored."""
        with self._database.connect() as connection:
            row = placements.find_placements(connection, [token]).get(token)
        if row is None:
            return Placement(self.shard(token))
        return self._remember(row)

    def locate(self, connection: Connection, tokens: Iterable[str]) -> dict[str, int]:
        """The shards that applications are in now, by SQL; unknown tokens where they would be stored."""
        wanted = set(tokens)
        found = placements.find_placements(connection, wanted)
        return {
            token: self.resolve(token, found[token].shard) if token in found else self.shard(token)
            for token in wanted
        }

    def shards_ever(self, connection: Connection, token: str) -> set[int]:
        """The shards that a stored application is in now, or was in before."""
        row = placements.find_placements(connection, [token])[token]
        return {self.resolve(token, row.shard), *row.moved_from}

    def resolve(self, token: str, placed: int | None) -> int:
        """The shard of a stored application, by what its row names."""
        if placed is not None:
            return placed
        return shard_of(token, self._database.installation.initial_shards)

    def check(self, token: str, placed: int | None, shard: int) -> None:
        """Raise ApplicationElsewhere if a stored application's row does not put it into this shard."""
        if self.resolve(token, placed) != shard:
            self.learn(token)
            raise ApplicationElsewhere

    def _remember(self, row: PlacementRow) -> Placement:
        placement = Placement(
            self.resolve(row.token, row.shard), row.moves, tuple(row.moved_from), row.moved_at
        )
        with self._lock:
            while len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[row.token] = placement
            self._forget_recent()
        return placement

    def _find(self, token: str) -> int:
        if self._hashed is None:
            self.refresh()
        with self._lock:
            assert self._hashed is not None
            known = self._known.get(token)
            shard = known.shard if known else shard_of(token, self._hashed)
            if len(self._recent) == MAX_RECENT:
                self._recent.clear()
            self._recent[token] = shard
        return shard

    def _forget_recent(self) -> None:
        """With the lock."""
        self._recent.clear()
        self.changes += 1


def _is_recent(moved_at: datetime | None) -> bool:
    if moved_at is None:
        return False
    return datetime.now(UTC) - moved_at < timedelta(seconds=LEFT_SHARD_SECONDS)
