"""What the log is given and what it answers: plain values, and StaleEpoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backend.domain.model import EntryId, Parent


class Creation(NamedTuple):
    """One request to the accept script: what to create, or to delete, under which parent.

    `payloads` are packed events, each with the count of numbers it takes (see `events`); `key` and
    `body_hash` are those of an idempotency key, empty without one.
    """

    kind: str  # chats | messages | delete-chat | delete-application
    parent: Parent
    payloads: Sequence[tuple[int, bytes]]
    key: str = ""
    body_hash: str = ""


class Assigned(NamedTuple):
    """The numbers that a creation was given, and its last entry in the log."""

    first: int
    last: int
    entry: EntryId


class Refusal(NamedTuple):
    """Why the script refused one creation: `counter`, `closed`, `reused` or `broken`, and of what."""

    reason: str
    subject: str = ""


ShardBatch = tuple[int, Sequence[Creation], EntryId]
"""A shard, its creations, and the highest entry that the caller has seen of it."""


class StaleEpoch(Exception):
    """Redis is not in the life that was expected: wiped, restarted, restored, promoted or foreign."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Outcome = tuple[list[Assigned | Refusal], EntryId, bool]
"""An answer for each creation of a batch, the log's end, and whether the caller has to ring the bell."""


@dataclass(frozen=True, slots=True)
class EpochState:
    """What a shard's life key says.

    `status` is `ok`, `none`, `other` (server), `broken`, or `ahead` (the log is ahead of the life).
    """

    status: str
    epoch: int
    highest: int
    sequence: int
    installation: str


class CounterState(NamedTuple):
    """A counter as it lies there: `issued` is None where none is to be found.

    One that is not `verified` in the current epoch is raised to the rows' highest number before it gives
    another; one that is not `open` was closed by a deletion.
    """

    issued: int | None
    verified: bool
    open: bool


@dataclass(frozen=True, slots=True)
class CounterReadings:
    """Some counters' `issued`, verified or not, None where there is none; and the time of the look.

    `end` is the log's end as of after it, `oldest` since when a count of the shard is dirty. Times are
    in microseconds since 1970, by Redis's clock.
    """

    issued: list[int | None]
    end: EntryId
    now: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Entries of the log in order, the log's last entry, and whether the page reaches it.

    An entry is its id, as Redis writes it, and its one field: a packed event.
    """

    entries: list[tuple[bytes, bytes]]
    end: EntryId
    complete: bool

    @property
    def last_entry(self) -> EntryId:
        """The id of the page's last entry; there must be one."""
        return EntryId.parse(self.entries[-1][0].decode())

    @property
    def through(self) -> EntryId:
        """How far the cursor may move once the page is stored."""
        return self.end if self.complete else self.last_entry
