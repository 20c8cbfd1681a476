"""A number without a row: it waits, was rejected or removed with its parent, is lost, or was never given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.catalog.message_trace.log_view import LogView, describe_entry
from backend.catalog.message_trace.rejections import entry_of, of_the_drain, rejection_steps
from backend.catalog.message_trace.trace import MessageTrace, TracedState, TraceStep
from backend.domain.errors import Unavailable
from backend.ingest.entry_search import CreatedMessage, find_waiting_entry
from backend.storage.postgres import locks, message_trace, shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.message_trace import NumberedDeadLetter, TracedNumber
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers


@dataclass(frozen=True, slots=True)
class UnstoredNumbers:
    """Traces numbers that SQL has no row of. Thread-safe. Raises EngineDown if PostgreSQL is away."""

    log: Log
    database: Database
    workers: Workers

    def trace(
        self,
        wanted: CreatedMessage,
        view: LogView,
        known: TracedNumber,
        letters: Sequence[NumberedDeadLetter],
    ) -> MessageTrace:
        """What became of it, by what the log and SQL had."""
        trace = MessageTrace(wanted.chat, wanted.number, TracedState.UNDECIDED, "")
        if removed := known.removed_parent:
            what, at = removed
            return replace(
                trace,
                state=TracedState.REMOVED,
                detail=f"its {what} is deleted, and so is every message that it had",
                steps=[TraceStep("deleted", at, f"together with its {what}")],
            )
        if rejected := of_the_drain(letters):
            return replace(
                trace,
                state=TracedState.DEAD,
                detail=f"its creation was rejected: {rejected[0].reason}",
                entry=entry_of(rejected[0].key),
                steps=list(rejection_steps(rejected)),
            )
        if view.problem:
            return replace(trace, detail=f"no row has it, and Redis can't tell: {view.problem}")
        if view.issued is not None and view.issued < wanted.number:
            return replace(
                trace,
                state=TracedState.NEVER_GIVEN,
                detail=f"the highest number of this chat is {view.issued:,}",
            )
        return self._trace_issued(wanted, view, trace)

    def _trace_issued(
        self, wanted: CreatedMessage, view: LogView, trace: MessageTrace
    ) -> MessageTrace:
        """A number that was issued: it waits in the log, or it is lost."""
        with self.database.connect() as connection:
            position = shards.shard_progress(connection, view.shard).position(wanted.token)
        # After a restart, the cursor may have passed entries that another Redis had.
        after = min(position, view.stored)
        waiting = find_waiting_entry(self.log, view.shard, wanted, after, view.end)
        if waiting:
            return replace(
                trace,
                state=TracedState.PENDING,
                detail=f"accepted and kept in the log; {self._explain_waiting()}",
                entry=str(waiting.id),
                steps=[TraceStep("accepted", waiting.at, describe_entry(waiting, view.shard))],
            )
        # Unreserved and decided, both before its row is looked for: then nothing will store it any more.
        with self.database.begin(durable=False) as tx:
            decided = (
                locks.try_exclude_reservations(tx, view.shard)
                and shards.shard_progress(tx, view.shard).position(wanted.token) >= view.end
            )
            known = message_trace.find_number(tx, view.shard, *wanted)
        if known and known.state is not None:
            return replace(trace, detail="it has just been stored: ask again")
        if view.issued is None:
            return replace(
                trace,
                detail="no row has it, and Redis has no counter of this chat; the next creation verifies it",
            )
        if not decided:
            return replace(
                trace,
                detail="an import, a repair or a drain is storing numbers of its shard: ask again",
            )
        return replace(
            trace,
            state=TracedState.LOST,
            detail="it was issued, and nothing has its message; `instachat reconcile --repair` records that",
        )

    def _explain_waiting(self) -> str:
        try:
            if self.workers.paused():
                return "the job queue is paused: `instachat queue resume`"
            if not self.workers.count():
                return "no worker is running"
        except Unavailable:
            return "the job queue's Redis does not answer"
        return "a worker stores it next"
