"""Counters: Redis has the numbers issued, SQL the numbers removed; the live count is their difference.

A counter issues numbers only in the epoch in which it was verified. Verifying raises it to the highest number
in SQL, never lowers it, and needs no lock: it passes the epoch under which SQL was read, and Redis refuses
any other.
"""

from collections.abc import Sequence

from backend.domain.errors import NotFound, Unavailable
from backend.domain.model import EntryId, Parent, no_application, no_chat, shard_of
from backend.ingest.barrier import Barrier
from backend.ingest.epochs import Epochs
from backend.storage.postgres import parents
from backend.storage.postgres.database import Database
from backend.storage.postgres.parents import ParentState
from backend.storage.redis.log import Log

MAX_ATTEMPTS = 5
DRAIN_TIMEOUT_SECONDS = 5.0


class Counters:
    """The live counters of all parents. Thread-safe."""

    def __init__(self, log: Log, database: Database, epochs: Epochs, barrier: Barrier) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._barrier = barrier

    def shard(self, token: str) -> int:
        """The shard of an application."""
        return shard_of(token, self._database.installation.shards)

    def verify(self, parent: Parent) -> int:
        """Make a parent's counter issue numbers in the current epoch; returns the highest number issued.

        Opens the counter if a deletion had closed it and was refused. Idempotent. Raises NotFound if there is
        no such parent, Unavailable if the log could not be drained in time, EngineDown if an engine is away.
        """
        shard = self.shard(parent.token)
        return self._epochs.retrying(shard, lambda: self._try_verify(shard, parent))

    def _try_verify(self, shard: int, parent: Parent) -> int:
        with self._database.connect() as connection:
            parent_state = parents.get_parent_state(connection, shard, parent)
        if parent.chat is None and not parent_state.exists:
            parent_state = self._await_application(shard, parent, parent_state)
        if parent_state.removed:
            raise _not_found_error(parent)
        issued = self._log.verify(
            shard,
            parent_state.epoch,
            parent,
            parent_state.highest,
            create=False,
            passed=parent_state.cursor if parent_state.exists else None,
        )
        return self._create_missing(shard, parent) if issued is None else issued

    def _await_application(
        self, shard: int, application: Parent, state: ParentState
    ) -> ParentState:
        """The state of an application once it is stored again, if SQL has forgotten it.

        An application that is in neither SQL nor the log is unknown, whatever its counter says. Raises
        NotFound, and Unavailable if the log could not be drained in time.
        """
        (counter,), end = self._log.inspect(shard, [application])
        if counter.issued is None or state.cursor >= end:
            raise _not_found_error(application)
        if not self._barrier.drain_through(shard, end, DRAIN_TIMEOUT_SECONDS):
            raise Unavailable(
                f"{application} is not stored, and the log could not be stored in time",
                "see `instachat status`: is PostgreSQL slow, or the backlog long?",
            )
        with self._database.connect() as connection:
            state = parents.get_parent_state(connection, shard, application)
        if not state.exists:
            raise _not_found_error(application)
        return state

    def _create_missing(self, shard: int, parent: Parent) -> int:
        """Create a missing counter. Its numbers may still be in the log, which is drained first."""
        if parent.chat is not None and parent.chat > self.read_issued([Parent(parent.token)])[0]:
            raise _not_found_error(parent)
        _, end = self._log.read_issued(shard, [])
        if not self._barrier.drain_through(shard, end, DRAIN_TIMEOUT_SECONDS):
            raise Unavailable(
                f"the counter of {parent} is missing, and the log could not be stored in time",
                "see `instachat status`: is PostgreSQL slow, or the backlog long?",
            )
        with self._database.connect() as connection:
            parent_state = parents.get_parent_state(connection, shard, parent)
        if not parent_state.exists or parent_state.removed:
            raise _not_found_error(parent)
        issued = self._log.verify(
            shard, parent_state.epoch, parent, parent_state.highest, create=True
        )
        assert issued is not None
        return issued

    def read_issued(self, parents: Sequence[Parent]) -> list[int]:
        """The highest number issued under each parent. Raises NotFound if a parent does not exist."""
        return self.read_issued_with_end(parents)[0] if parents else []

    def read_issued_with_end(self, parents: Sequence[Parent]) -> tuple[list[int], EntryId]:
        """As `read_issued`, for parents of one application; and the log's end, which is read after them.

        Each number up to these is in the log up to that end, or stored.
        """
        shard = self.shard(parents[0].token)
        for _ in range(MAX_ATTEMPTS):
            issued, end = self._epochs.retrying(
                shard, lambda: self._log.read_issued(shard, parents)
            )
            unverified = [p for p, n in zip(parents, issued, strict=True) if n is None]
            if not unverified:
                return [n for n in issued if n is not None], end
            for parent in unverified:
                self.verify(parent)
        raise Unavailable(
            "Redis loses its counters again and again", "see `instachat doctor` and Redis's log"
        )

    def read_log_end(self, shard: int) -> EntryId:
        """The end of a shard's log, in its present epoch. Raises as `read_issued_with_end`."""
        _, end = self._epochs.retrying(shard, lambda: self._log.read_issued(shard, []))
        return end

    def create_counter(self, token: str) -> None:
        """Create the counter of an application that is about to be stored for the first time."""
        shard = self.shard(token)
        self._epochs.retrying(
            shard,
            lambda: self._log.verify(
                shard, self._epochs.read(shard), Parent(token), 0, create=True
            ),
        )


def _not_found_error(parent: Parent) -> NotFound:
    return no_application() if parent.chat is None else no_chat(parent.chat)
