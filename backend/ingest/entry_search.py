"""Finds the entry of a shard's log that created a message, while the log holds it."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from backend.domain.events import MessagesCreated, from_micros, to_micros, unpack
from backend.domain.model import EntryId
from backend.storage.redis.log import Log

PAGE_ENTRIES = 128
SLACK_ENTRIES = 256  # by so many, Redis's clock may have been set back
BEGINNING = EntryId(0, 0)


class CreatedMessage(NamedTuple):
    """A number that an event may have created."""

    token: str
    chat: int
    number: int


class FoundEntry(NamedTuple):
    """An entry, and when it was accepted."""

    id: EntryId
    at: datetime


def find_waiting_entry(
    log: Log, shard: int, wanted: CreatedMessage, after: EntryId, through: EntryId
) -> FoundEntry | None:
    """The entry that created a message, among those behind one and up to another. Reads all of them."""
    for entry, field in _entries(log, shard, after):
        if entry > through:
            return None
        if found := _match(entry, field, wanted):
            return found
    return None


def find_kept_entry(
    log: Log, shard: int, wanted: CreatedMessage, at: datetime, end: EntryId
) -> FoundEntry | None:
    """The entry that created a message then; None if it was deleted, or the message was imported.

    Entries are in the order of their times, so few are read, however long the log is.
    """
    micros = to_micros(at)
    position = _seek(log, shard, micros, end)
    if position is None:
        return None
    for count, (entry, field) in enumerate(_entries(log, shard, position)):
        if found := _match(entry, field, wanted):
            return found if found.at == at else None
        if count > 2 * SLACK_ENTRIES and _micros_of(field) > micros:
            return None
    return None


def _seek(log: Log, shard: int, micros: int, end: EntryId) -> EntryId | None:
    """A place in the log shortly before its entries of that time; None if the log is empty."""
    first = _first_from(log, shard, BEGINNING)
    if first is None:
        return None
    oldest, _ = first

    def entry_at(sequence: int) -> tuple[EntryId, bytes] | None:
        # Sequences go on through all epochs, but an id begins with its epoch.
        found = _first_from(log, shard, EntryId(oldest.epoch, sequence))
        while found and found[0].sequence < sequence:
            found = _first_from(log, shard, EntryId(found[0].epoch, sequence))
        return found

    low, high = oldest.sequence, end.sequence + 1
    while low < high:
        middle = (low + high) // 2
        found = entry_at(middle)
        if found is None or _micros_of(found[1]) >= micros:
            high = middle
        else:
            low = found[0].sequence + 1
    found = entry_at(max(low - SLACK_ENTRIES, oldest.sequence))
    return None if found is None else _before(found[0])


def _entries(log: Log, shard: int, after: EntryId) -> Iterator[tuple[EntryId, bytes]]:
    while page := log.entries_after(shard, after, PAGE_ENTRIES):
        yield from page
        after = page[-1][0]


def _first_from(log: Log, shard: int, entry: EntryId) -> tuple[EntryId, bytes] | None:
    return next(iter(log.entries_after(shard, _before(entry), 1)), None)


def _before(entry: EntryId) -> EntryId:
    return EntryId(entry.epoch, max(entry.sequence - 1, 0))


def _micros_of(field: bytes) -> int:
    try:
        return int(field.split(b" ", 2)[1])
    except (IndexError, ValueError):  # no event
        return 0


def _match(entry: EntryId, field: bytes, wanted: CreatedMessage) -> FoundEntry | None:
    if wanted.token.encode() not in field[:200]:
        return None
    try:
        event = unpack(field)
    except ValueError:
        return None
    if (
        isinstance(event, MessagesCreated)
        and (event.token, event.chat) == (wanted.token, wanted.chat)
        and event.first <= wanted.number <= event.last
    ):
        return FoundEntry(entry, from_micros(event.micros))
    return None
