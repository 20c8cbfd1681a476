"""A stored message's steps to the search index, and whether a search finds it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backend.catalog.message_trace.trace import TraceStep
from backend.domain.errors import Unavailable
from backend.domain.model import MessageKey
from backend.ingest.entry_search import CreatedMessage
from backend.search.searcher import Searcher
from backend.storage.postgres import search_indices
from backend.storage.postgres.database import Database
from backend.storage.postgres.message_trace import NumberedDeadLetter, OutboxEntry, TracedNumber
from backend.storage.search_index import SearchIndex

_FOUND_BY_NONE = "no search finds it"


class FoundSteps(NamedTuple):
    """The steps, and a sentence about what a search finds."""

    steps: Sequence[TraceStep]
    sentence: str


@dataclass(frozen=True, slots=True)
class SearchSteps:
    """Reads the outbox, the index and a search. Thread-safe. Without Elasticsearch it says what it lacks."""

    database: Database
    searcher: Searcher
    index: SearchIndex | None

    def find(
        self,
        wanted: CreatedMessage,
        known: TracedNumber,
        letters: Sequence[NumberedDeadLetter],
        outbox: Sequence[OutboxEntry],
    ) -> FoundSteps:
        """The steps of a message whose row is `known`. Raises EngineDown if PostgreSQL is away."""
        is_shown = known.state == "stored" and known.removed_parent is None
        sentence = self._search(wanted, known) if is_shown else _FOUND_BY_NONE
        if not known.publishing or self.index is None:
            at_once = [TraceStep("searchable", None, "at once: PostgreSQL searches")]
            return FoundSteps(at_once if is_shown else [], sentence)
        rejected = [
            TraceStep("rejected", letter.created_at, f"by the index: {letter.reason}")
            for letter in letters
            if letter.kind == "publish"
        ]
        indexed = self._indexed(self.index, known, (known.chat_id or 0, wanted.number))
        return FoundSteps([*_outbox_steps(known, outbox), *rejected, indexed], sentence)

    def _indexed(self, index: SearchIndex, known: TracedNumber, key: MessageKey) -> TraceStep:
        with self.database.connect() as connection:
            live = search_indices.live_index(connection)
        if live is None:
            return TraceStep("indexed", None, "there is no search index: run `instachat reindex`")
        try:
            document = index.read_states(live.name, [key]).get(key)
        except Unavailable as error:
            return TraceStep("indexed", None, f"the index can't tell: {error.message}")
        if document is None:
            return TraceStep("indexed", None, f"{live.name} has no document of it")
        what = "a document" if document.alive else "a tombstone"
        current = "the present one" if document.version == known.version else "not the present one"
        return TraceStep(
            "indexed", None, f"{live.name} has {what} of version {document.version}, {current}"
        )

    def _search(self, wanted: CreatedMessage, known: TracedNumber) -> str:
        """Whether a search for the beginning of its text finds it."""
        if not known.folded:
            return "stored; its text folds to nothing, so no search finds it"
        assert known.chat_id is not None
        try:
            page = self.searcher.search(known.chat_id, known.folded, wanted.number - 1, 1)
        except Unavailable as error:
            return f"stored; whether a search finds it can't be told: {error.message}"
        if any(message.number == wanted.number for message in page.messages):
            return "stored, and found by a search for the beginning of its text"
        return f"stored, and not found by a search: {page.incomplete or 'the index lacks it'}"


def _outbox_steps(known: TracedNumber, outbox: Sequence[OutboxEntry]) -> Iterator[TraceStep]:
    """A step for each row of the outbox that names the message."""
    for row in outbox:
        if row.published_at:
            detail = f"version {row.version}; a refresh follows"
            yield TraceStep("published", row.published_at, detail)
        else:
            is_leased = row.leased_until and row.leased_until > known.now
            doing = "a publisher has it" if is_leased else "it waits for a publisher"
            yield TraceStep("in the outbox", row.created_at, f"version {row.version}; {doing}")
