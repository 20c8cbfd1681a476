"""A new life of Redis: how numbers stay unique when Redis restarts, is wiped, restored or replaced.

The authority is SQL. Whoever is refused because Redis is not in the life it says claims a new one: it
locks the shard's row, looks again, commits the next epoch in SQL, and only then writes it to Redis,
by a script that never lowers it. A claim does not touch the cursor: the first drain of an epoch reads
the log from its beginning and skips what is stored. After a claim no counter is verified, so each is
raised to what SQL holds before it gives another number (`counters`).
"""

import threading
import time

from backend.domain.errors import Failed, Unavailable
from backend.domain.model import EntryId
from backend.storage import postgres
from backend.storage.postgres import Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import Life

LOCK_SECONDS = 3.0
ATTEMPTS = 20
PAUSE_SECONDS = 0.05


class Lives:
    """What this process knows of each shard's life, and how it claims a new one. Thread-safe."""

    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database
        self._known: dict[int, EntryId] = {}
        self._began = False
        self._lock = threading.Lock()

    @property
    def began(self) -> bool:
        """Whether SQL was asked what it has passed: by `renew`, or by the first `known`."""
        return self._began

    def known(self, shard: int) -> EntryId:
        """The highest log entry known to have been there: a Redis that is behind it is refused.

        A process begins with what SQL has passed, in all shards, so that an old copy of Redis can't
        fool one that has seen nothing yet; from then on it knows what it saw.
        """
        if not self._began:
            self.renew()
        return self._known[shard]

    def renew(self) -> None:
        """Learn what SQL has passed by now, and which lives others have claimed.

        Who accepts seldom and does so now and then is not fooled by a former primary. Raises EngineDown.
        """
        _ = self._database.installation  # so that who finds that this `began` needs no SQL
        with self._database.connect() as connection:
            states = postgres.shard_states(connection)
        for number, (epoch, cursor) in states.items():
            self.saw(number, max(cursor, EntryId(epoch, 0)))
        self._began = True

    def saw(self, shard: int, end: EntryId) -> None:
        """Remember a shard's log's end."""
        with self._lock:
            self._known[shard] = max(end, self._known.get(shard, end))

    def claim(self, shard: int, why: str) -> None:
        """Begin a new life of a shard, unless somebody else did since the caller was refused.

        Safe against any number of others doing the same. Raises EngineDown when either engine is
        away, Unavailable when the shard stays locked, Failed when this Redis holds the numbers of
        another installation.
        """
        with self._database.connect() as connection:
            epoch_before, _ = postgres.shard_state(connection, shard)
        for _ in range(ATTEMPTS):
            life = self._log.probe(shard)
            if self._is_fine(shard, life, epoch_before):
                return
            claimed = self._claim_in_sql(shard, epoch_before)
            if claimed:
                self._log.write_life(shard, claimed, self._database.installation.id)
                return
            # Another one has claimed and is about to write it; if it died, the claim is ours next.
            time.sleep(PAUSE_SECONDS)
            if self._log.probe(shard) == life:
                with self._database.connect() as connection:
                    epoch_before, _ = postgres.shard_state(connection, shard)
        raise Unavailable(
            f"shard {shard} of Redis is not usable yet ({why})", "try again in a moment"
        )

    def _is_fine(self, shard: int, life: Life, epoch_in_sql: int) -> bool:
        """Whether the refusal is over: a life of ours, as high as SQL's and as this process knows."""
        if life.installation and life.installation != self._database.installation.id:
            raise Failed(
                "this Redis holds the numbers of another installation (another database); "
                "nothing was changed",
                "check INSTACHAT_REDIS_URL and INSTACHAT_DATABASE_URL, or give this database an "
                "empty Redis",
            )
        end = EntryId(life.epoch, life.sequence)
        return life.state == "ok" and life.epoch == epoch_in_sql and end >= self.known(shard)

    def _claim_in_sql(self, shard: int, epoch_before: int) -> int | None:
        """Commit the next epoch; None if the epoch moved since, or the shard is locked."""
        with self._database.begin() as tx:
            locked = postgres.lock_shard(tx, shard, wait_seconds=LOCK_SECONDS)
            if locked is None or locked.epoch != epoch_before:
                return None
            life = self._log.probe(shard)
            if self._is_fine(shard, life, locked.epoch):
                return None
            # Above everything found here too: a database restored from a copy may be behind Redis.
            epoch = max(locked.epoch, life.highest, self.known(shard).epoch) + 1
            postgres.set_epoch(tx, shard, epoch)
        with self._database.connect() as connection:
            epoch_now, _ = postgres.shard_state(connection, shard)
        return epoch if epoch_now == epoch else None
