"""What dead letters say of a number."""

from collections.abc import Iterator, Sequence

from backend.catalog.message_trace.trace import TraceStep
from backend.domain.events import MessagesCreated, unpack
from backend.ingest.entry_search import CreatedMessage
from backend.storage.postgres import message_trace
from backend.storage.postgres.database import Connection
from backend.storage.postgres.message_trace import NumberedDeadLetter


def read_dead_letters(
    connection: Connection, wanted: CreatedMessage
) -> Iterator[NumberedDeadLetter]:
    """The dead letters that are about this number, or about its chat."""
    for letter in message_trace.list_dead_letters_of(connection, *wanted):
        if letter.number is not None or letter.chat is None or _creates(letter, wanted):
            yield letter


def of_the_drain(letters: Sequence[NumberedDeadLetter]) -> list[NumberedDeadLetter]:
    """Those of a creation that could not be stored."""
    return [letter for letter in letters if letter.kind == "drain"]


def rejection_steps(letters: Sequence[NumberedDeadLetter]) -> Iterator[TraceStep]:
    """A step for each dead letter of the drain."""
    for letter in letters:
        whose = "its chat: " if letter.chat is None else ""
        yield TraceStep("rejected", letter.created_at, f"{whose}{letter.reason} ({letter.key})")


def entry_of(key: str) -> str | None:
    """The entry that a dead letter's key names: SHARD-EPOCH-SEQUENCE, and a number."""
    parts = key.split("-")
    return f"{parts[1]}-{parts[2]}" if len(parts) >= 3 and parts[0].isdigit() else None


def _creates(letter: NumberedDeadLetter, wanted: CreatedMessage) -> bool:
    try:
        event = unpack(letter.event)
    except ValueError:
        return False
    return isinstance(event, MessagesCreated) and event.first <= wanted.number <= event.last
