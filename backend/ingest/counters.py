"""Counters: Redis has the numbers issued, SQL the numbers removed; the live count is their difference.

A counter issues numbers only in the epoch in which it was verified. Verifying raises it to the highest number
in SQL, never lowers it, and needs no lock: it passes the epoch under which SQL was read, and Redis refuses
any other.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from backend.domain.errors import NotFound, Unavailable
from backend.domain.events import pack_arrival
from backend.domain.model import EntryId, Parent, no_application, no_chat
from backend.ingest.barrier import Barrier
from backend.ingest.epochs import Epochs
from backend.ingest.routing import ApplicationElsewhere, Routing
from backend.storage.postgres import parents, placements
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.parents import ParentState
from backend.storage.redis.log import Log
from backend.storage.redis.types import ApplicationMoving

MAX_ATTEMPTS = 5
DRAIN_TIMEOUT_SECONDS = 5.0


class IssuedNumbers(NamedTuple):
    """The highest numbers issued under some parents of a shard, and the shard's log end after them."""

    numbers: list[int]
    shard: int
    end: EntryId


class Counters:
    """The live counters of all parents. Thread-safe."""

    def __init__(
        self, log: Log, database: Database, epochs: Epochs, routing: Routing, barrier: Barrier
    ) -> None:
        self._log = log
        self._database = database
        self._epochs = epochs
        self._routing = routing
        self._barrier = barrier

    def shard(self, token: str) -> int:
        """The shard of an application, as far as this process knows."""
        return self._routing.shard(token)

    def locate(self, connection: Connection, tokens: Iterable[str]) -> dict[str, int]:
        """See `Routing.locate`."""
        return self._routing.locate(connection, tokens)

    def initial_shard(self, token: str) -> int:
        """The shard of an application whose row names none."""
        return self._routing.resolve(token, None)

    def verify(self, parent: Parent) -> int:
        """Make a parent's counter issue numbers in the current epoch; returns the highest number issued.

        Opens the counter if a deletion had closed it and was refused. Follows an application to its shard,
        and waits until a move that has begun is decided. Idempotent. Raises NotFound if there is no such
        parent, Unavailable if the log could not be drained in time, EngineDown if an engine is away.
        """
        for _ in range(MAX_ATTEMPTS):
            shard = self.shard(parent.token)
            try:
                return self._verify_in_shard(shard, parent)
            except ApplicationElsewhere:
                continue
            except ApplicationMoving as moving:
                self._finish_move(shard, parent.token, moving.mark)
        raise Unavailable(
            "the application moves from shard to shard", "see `instachat status`, then try again"
        )

    def _verify_in_shard(self, shard: int, parent: Parent) -> int:
        return self._epochs.retrying(shard, lambda: self._try_verify(shard, parent))

    def _finish_move(self, shard: int, token: str, mark: str) -> None:
        """Have the drain decide a move that has closed an application; the routing knows its shard then."""
        self._drain_before_move(shard, token)
        if self._routing.learn(token).shard != shard:
            return
        # Redis or SQL has lost the move. Whatever other shards know of it is stored before it is given up.
        for other in self._database.refresh_installation().all_shards:
            self._drain_before_move(other, token)
        if self._routing.learn(token).shard == shard:
            self._epochs.renew(shard)  # so that each of its counters is compared with SQL
            self._epochs.retrying(
                shard,
                lambda: self._log.reopen(shard, self._epochs.read(shard), Parent(token), mark),
            )

    def _drain_before_move(self, shard: int, token: str) -> None:
        end = self.read_log_end(shard)
        if not self._barrier.drain_through(shard, end, DRAIN_TIMEOUT_SECONDS, token=token):
            raise Unavailable(
                "the application is being moved to another shard, and the log could not be stored in time",
                "see `instachat status`: is PostgreSQL slow, or the backlog long?",
            )

    def _try_verify(self, shard: int, parent: Parent) -> int:
        with self._database.connect() as connection:
            parent_state = parents.get_parent_state(connection, shard, parent)
        self._check_shard(shard, parent, parent_state)
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
            moves=parent_state.moves if parent.chat is None else None,
            per_second=parent_state.per_second,
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
        self._check_shard(shard, application, state)
        return state

    def _check_shard(self, shard: int, parent: Parent, state: ParentState) -> None:
        """Raise ApplicationElsewhere if SQL says that the parent's application is in another shard."""
        if state.placed is not None or state.exists:
            self._routing.check(parent.token, state.placed, shard)

    def _create_missing(self, shard: int, parent: Parent) -> int:
        """Create a missing counter. Its numbers may still be in the log, which is drained first."""
        if parent.chat is not None and parent.chat > self.read_issued([Parent(parent.token)])[0]:
            raise _not_found_error(parent)
        if self.shard(parent.token) != shard:
            raise ApplicationElsewhere
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
        self._check_shard(shard, parent, parent_state)
        if parent.chat is None and parent_state.moves:
            self._record_arrival(shard, parent_state.epoch, parent.token)
        issued = self._log.verify(
            shard,
            parent_state.epoch,
            parent,
            parent_state.highest,
            create=True,
            moves=parent_state.moves if parent.chat is None else None,
            per_second=parent_state.per_second,
        )
        assert issued is not None
        return issued

    def _record_arrival(self, shard: int, epoch: int, token: str) -> None:
        """Record in the log that an application has come to this shard, before anything of it is accepted.

        If SQL goes back in time, the drain then stores what the application's earlier shard has, first.
        """
        with self._database.connect() as connection:
            row = placements.find_placements(connection, [token])[token]
        self._routing.check(token, row.shard, shard)
        if not row.moved_from:
            return  # it came so long ago that the log of the shard that it left is no longer kept
        payload = pack_arrival(token, row.moved_from[-1], row.moved_through, row.moves)
        self._log.append(shard, epoch, payload)

    def read_issued(self, parents: Sequence[Parent]) -> list[int]:
        """The highest number issued under each parent. Raises NotFound if a parent does not exist."""
        return self.read_issued_with_end(parents).numbers if parents else []

    def read_issued_with_end(self, parents: Sequence[Parent]) -> "IssuedNumbers":
        """As `read_issued`, for parents of one application; and the log's end, which is read after them.

        Each number up to these is in the log up to that end, or stored.
        """
        token = parents[0].token
        for _ in range(MAX_ATTEMPTS):
            shard = self.shard(token)
            issued, end = self._read_issued(shard, parents)
            unverified = [p for p, n in zip(parents, issued, strict=True) if n is None]
            if not unverified:
                return IssuedNumbers([n for n in issued if n is not None], shard, end)
            # The application's counter says whether it is in this shard.
            for parent in dict.fromkeys([Parent(token), *unverified]):
                self.verify(parent)
        raise Unavailable(
            "Redis loses its counters again and again", "see `instachat doctor` and Redis's log"
        )

    def read_chats_issued(self, placed: Mapping[str, int | None]) -> dict[str, int]:
        """The highest chat number issued in each of many stored applications, by token: a call a shard.

        `placed` has the shard that each application's row names. An application that was deleted since the
        row was read is left out.
        """
        by_shard: dict[int, list[Parent]] = {}
        for token, shard in placed.items():
            by_shard.setdefault(self._routing.resolve(token, shard), []).append(Parent(token))
        issued: dict[str, int] = {}
        for parent, number in self._log.read_issued_each(by_shard).items():
            if number is None:  # not verified, or moved since
                with suppress(NotFound):
                    issued[parent.token] = self.read_issued([parent])[0]
            else:
                issued[parent.token] = number
        return issued

    def read_log_end(self, shard: int) -> EntryId:
        """The end of a shard's log, in its present epoch. Raises as `read_issued_with_end`."""
        return self._read_issued(shard, [])[1]

    def _read_issued(
        self, shard: int, parents: Sequence[Parent]
    ) -> tuple[list[int | None], EntryId]:
        return self._epochs.retrying(shard, lambda: self._log.read_issued(shard, parents))

    def create_counter(self, token: str, shard: int) -> None:
        """Create the counter of an application that was stored in a shard just now, if it is still there.

        The first use of the application would create it, too, having drained the log. That is not needed
        here: there is nothing of the application in the log of a Redis that has no counter of it.
        """
        self._epochs.retrying(shard, lambda: self._try_create_counter(shard, Parent(token)))

    def _try_create_counter(self, shard: int, application: Parent) -> None:
        with self._database.connect() as connection:
            state = parents.get_parent_state(connection, shard, application)
        if not state.exists or state.removed or state.placed not in (None, shard):
            return
        self._log.verify(
            shard, state.epoch, application, state.highest, create=True, moves=state.moves
        )


def _not_found_error(parent: Parent) -> NotFound:
    return no_application() if parent.chat is None else no_chat(parent.chat)
