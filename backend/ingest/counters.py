"""Counters: `issued` lives in Redis, what ended lives in SQL, and the live count is their difference.

A counter gives numbers only in the life it was verified in. Verifying raises it to the highest number
that SQL holds, never lowers it, and needs no lock: it names the epoch that SQL was read under, and
Redis refuses any other.
"""

from collections.abc import Sequence

from backend.domain.errors import NotFound, Unavailable
from backend.domain.model import EntryId, Parent, no_application, no_chat, shard_of
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Lives
from backend.storage import postgres
from backend.storage.postgres import Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import LifeLost

ATTEMPTS = 5
SETTLE_SECONDS = 5.0


class Counters:
    """The live counters of all parents. Thread-safe."""

    def __init__(self, log: Log, database: Database, lives: Lives, drainer: Drainer) -> None:
        self._log = log
        self._database = database
        self._lives = lives
        self._drainer = drainer

    def shard(self, token: str) -> int:
        """The shard of an application."""
        return shard_of(token, self._database.installation.shards)

    def verify(self, parent: Parent) -> int:
        """Make a parent's counter usable in the present life of Redis; returns `issued`.

        One that a deletion closed is open again afterwards if that deletion was refused.
        Idempotent. Raises NotFound when there is no such parent, Unavailable when what Redis holds
        could not be drained in time, EngineDown when an engine is away.
        """
        shard = self.shard(parent.token)
        for _ in range(ATTEMPTS):
            try:
                with self._database.connect() as connection:
                    standing = postgres.standing(connection, shard, parent)
                if standing.removed or (parent.chat is None and not standing.known):
                    raise _not_found(parent)
                issued = self._log.verify(
                    shard,
                    standing.epoch,
                    parent,
                    standing.highest,
                    create=False,
                    passed=standing.cursor if standing.known else None,
                )
                if issued is None:
                    issued = self._create(shard, parent)
                return issued
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
        raise Unavailable(
            f"the counter of {parent} could not be verified", "see `instachat status`"
        )

    def _create(self, shard: int, parent: Parent) -> int:
        """Make a counter that is not there. Its numbers may be in the log still: that goes first."""
        if parent.chat is not None and parent.chat > self.live([Parent(parent.token)])[0]:
            raise _not_found(parent)
        _, end = self._log.issued(shard, [])
        if not self._drainer.settle(shard, end, SETTLE_SECONDS):
            raise Unavailable(
                f"the counter of {parent} is missing, and the log could not be stored in time",
                "see `instachat status`: is PostgreSQL slow, or the backlog long?",
            )
        with self._database.connect() as connection:
            standing = postgres.standing(connection, shard, parent)
        if not standing.known or standing.removed:
            raise _not_found(parent)
        issued = self._log.verify(shard, standing.epoch, parent, standing.highest, create=True)
        assert issued is not None
        return issued

    def live(self, parents: Sequence[Parent]) -> list[int]:
        """The highest number given under each parent, live. NotFound if one is not there."""
        return self.live_with_end(parents)[0] if parents else []

    def live_with_end(self, parents: Sequence[Parent]) -> tuple[list[int], EntryId]:
        """As `live`, for parents of one application; and the log's end as read after the numbers.

        Each number at or below these is in the log up to that end, or stored.
        """
        shard = self.shard(parents[0].token)
        for _ in range(ATTEMPTS):
            try:
                issued, end = self._log.issued(shard, parents)
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
                continue
            unverified = [p for p, n in zip(parents, issued, strict=True) if n is None]
            if not unverified:
                return [n for n in issued if n is not None], end
            for parent in unverified:
                self.verify(parent)
        raise Unavailable("Redis changes its life again and again", "see `instachat doctor`")

    def open(self, token: str) -> None:
        """Create the counter of an application that is about to be stored for the first time."""
        shard = self.shard(token)
        for _ in range(ATTEMPTS):
            with self._database.connect() as connection:
                epoch, _ = postgres.shard_state(connection, shard)
            try:
                self._log.verify(shard, epoch, Parent(token), 0, create=True)
                return
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
        raise Unavailable("Redis changes its life again and again", "see `instachat doctor`")


def _not_found(parent: Parent) -> NotFound:
    return no_application() if parent.chat is None else no_chat(parent.chat)
