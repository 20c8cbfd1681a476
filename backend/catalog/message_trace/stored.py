"""A number with a row: when it was accepted, stored, edited, deleted; or that it was rejected or lost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.catalog.message_trace.log_view import (
    LogView,
    describe_entry,
    find_entry,
    stored_between,
)
from backend.catalog.message_trace.rejections import entry_of, of_the_drain, rejection_steps
from backend.catalog.message_trace.search_steps import SearchSteps
from backend.catalog.message_trace.trace import MessageTrace, TracedState, TraceStep
from backend.domain.events import to_micros
from backend.ingest.entry_search import CreatedMessage, FoundEntry
from backend.storage.postgres.message_trace import NumberedDeadLetter, OutboxEntry, TracedNumber
from backend.storage.redis.log import Log


@dataclass(frozen=True, slots=True)
class StoredNumbers:
    """Traces numbers that SQL has a row of. Thread-safe."""

    log: Log
    search_steps: SearchSteps

    def trace(
        self,
        wanted: CreatedMessage,
        view: LogView,
        known: TracedNumber,
        letters: Sequence[NumberedDeadLetter],
        outbox: Sequence[OutboxEntry],
    ) -> MessageTrace:
        """What became of it, by its row and by what the log still has."""
        assert known.created_at is not None
        trace = MessageTrace(
            wanted.chat, wanted.number, TracedState.STORED, "", version=known.version
        )
        if known.state == "lost":
            return replace(
                trace,
                state=TracedState.LOST,
                detail="it was issued, and nothing has its message",
                version=None,
                steps=[TraceStep("lost", known.created_at, "a repair, or an import, recorded it")],
            )
        rejected = of_the_drain(letters)
        entry = find_entry(self.log, view, wanted, known.created_at)
        named: str | None
        if entry:
            named, where = str(entry.id), describe_entry(entry, view.shard)
        else:
            named = next((entry_of(each.key) for each in rejected), None)
            where = view.problem or "the log does not hold its entry any more, or it was imported"
        trace = replace(trace, entry=named)
        accepted = TraceStep("accepted", known.created_at, where)
        if known.state == "dead":
            return _trace_dead(trace, accepted, rejected)
        steps = [accepted, self._stored(view, known, entry, outbox), *_change_steps(known)]
        published, found = self.search_steps.find(wanted, known, letters, outbox)
        is_removed = known.state == "removed" or known.removed_parent is not None
        return replace(
            trace,
            state=TracedState.REMOVED if is_removed else TracedState.STORED,
            detail=found,
            steps=[*steps, *published],
        )

    def _stored(
        self,
        view: LogView,
        known: TracedNumber,
        entry: FoundEntry | None,
        outbox: Sequence[OutboxEntry],
    ) -> TraceStep:
        """When the first version was committed: by PostgreSQL, by the outbox, or by Redis's marks."""
        assert known.created_at is not None
        first = to_micros(known.created_at)
        if known.version == first and known.committed_at:
            return TraceStep("stored", known.committed_at, "committed in PostgreSQL")
        for row in outbox:
            if row.version == first:
                return TraceStep("stored", row.created_at, "named in the outbox by its transaction")
        if entry:
            return stored_between(self.log, view.shard, entry, known.drained_at)
        why = "it was changed since" if known.version != first else "PostgreSQL does not track it"
        return TraceStep("stored", None, f"it is not known any more when: {why}")


def _trace_dead(
    trace: MessageTrace, accepted: TraceStep, rejected: Sequence[NumberedDeadLetter]
) -> MessageTrace:
    steps = list(rejection_steps(rejected)) or [
        TraceStep("rejected", None, "its dead letter was discarded")
    ]
    reason = rejected[0].reason if rejected else "its dead letter was discarded"
    return replace(
        trace,
        state=TracedState.DEAD,
        detail=f"its creation was rejected: {reason}",
        steps=[accepted, *steps],
    )


def _change_steps(known: TracedNumber) -> list[TraceStep]:
    """Its deletion or its last edit, and the deletion of its parent."""
    assert known.created_at is not None
    steps: list[TraceStep] = []
    is_changed = known.version != to_micros(known.created_at)
    if known.state == "removed":
        steps.append(TraceStep("deleted", known.removed_at, "its text is erased"))
    elif is_changed and known.updated_at and known.updated_at > known.created_at:
        steps.append(TraceStep("edited", known.updated_at, "the last time"))
    if removed_parent := known.removed_parent:
        what, at = removed_parent
        steps.append(TraceStep("deleted", at, f"together with its {what}"))
    return steps
