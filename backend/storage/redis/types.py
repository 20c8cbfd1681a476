"""The values that the calls take and return, and StaleEpoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from msgspec import Struct

from backend.domain.errors import InstaChatError
from backend.domain.model import Accepted, EntryId, Parent


class Creation(Struct, gc=False):
    """One request to the accept script: what to create, or to delete, under which parent.

    `payloads` are packed events, each with the count of numbers it takes (see `backend.domain.events`); `key`
    and `body_hash` belong to an idempotency key, and are empty without one.
    """

    kind: str  # chats | messages | delete-chat | delete-application | moved-MOVE-NONCE
    parent: Parent
    payloads: Sequence[tuple[int, bytes]]
    key: str = ""
    body_hash: str = ""


class Refusal(NamedTuple):
    """Why the script refused one creation, and of what.

    The reason is `counter`, `closed`, `limited`, `reused`, `exhausted` or `broken`.
    """

    reason: str
    subject: str = ""


class ShardBatch(Struct, frozen=True, gc=False):
    """A shard, its creations, and the highest entry of its log that the caller knows."""

    shard: int
    creations: Sequence[Creation]
    last_seen: EntryId


SingleMessages = Mapping[int, Sequence[tuple[Parent, bytes, int]]]
"""By shard, one new message each for different chats: the chat, the packed event, and the request's place."""


class StaleEpoch(Exception):
    """Redis is not in the expected epoch: it was wiped, restarted, restored, promoted or exchanged."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ApplicationMoving(Exception):
    """The application is closed because it moves to another shard, which is not decided in SQL yet.

    `mark` is what has closed its counter.
    """

    def __init__(self, mark: str) -> None:
        super().__init__(mark)
        self.mark = mark


class ShardMoved(Exception):
    """The node of a cluster that was asked does not serve the shard, or not alone; it has done nothing.

    `AcceptCalls` follow the shard to the node that serves it.
    """


class AcceptOutcome(Struct, frozen=True, gc=False):
    """An answer to each creation of a batch, the log's end, and whether the caller must request a drain."""

    answers: list[Accepted | Refusal]
    end: EntryId
    must_notify: bool


AcceptResult = AcceptOutcome | InstaChatError | StaleEpoch | ShardMoved


@dataclass(frozen=True, slots=True)
class EpochState:
    """The content of a shard's epoch key.

    `status` is `ok`, `none`, `other` (another server's), `broken`, or `ahead` (the log has an entry that is
    not of this epoch). `highest` is the highest epoch that Redis has any trace of, `stored` the last entry
    that drains have stored, or 0-0. `server` names the server, as it is until it restarts or is promoted, and
    the database in it.
    """

    status: str
    epoch: int
    highest: int
    sequence: int
    installation: str
    stored: EntryId
    server: str


class CounterState(NamedTuple):
    """A counter as it is; `issued` is None if there is none.

    A counter that is not `verified` in the current epoch is raised to the rows' highest number before it
    issues another; one that is not `open` was closed by a deletion.
    """

    issued: int | None
    verified: bool
    open: bool


@dataclass(frozen=True, slots=True)
class CounterReadings:
    """The `issued` of some counters, verified or not, None if there is none; and the time of the reading.

    `end` is the log's end, read after the counters; `oldest` is the time since which the shard has had a
    dirty count. Times are in microseconds since 1970, by Redis's clock.
    """

    issued: list[int | None]
    end: EntryId
    now: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Entries of the log in order, the log's last entry, and whether the page reaches it.

    An entry is its id, as Redis writes it, and its one field: a packed event. They come behind the entry
    `after`; `stored` is the last one that was stored, as Redis knows it, or 0-0. What is `trimmed` is not in
    the log any more.
    """

    entries: list[tuple[bytes, bytes]]
    end: EntryId
    complete: bool
    after: EntryId
    stored: EntryId
    trimmed: "DrainedLog"

    @property
    def last_entry(self) -> EntryId:
        """The id of the page's last entry; there must be one."""
        return EntryId.parse(self.entries[-1][0].decode())

    @property
    def through(self) -> EntryId:
        """How far the cursor may move once the page is stored."""
        if self.complete:
            return self.end
        return self.last_entry if self.entries else self.after

    def up_to(self, last: EntryId) -> "LogPage":
        """The page of its entries up to that one."""
        if last >= self.through:
            return self
        entries = [entry for entry in self.entries if EntryId.parse(entry[0].decode()) <= last]
        return replace(self, entries=entries, complete=False)

    def missing_numbers(self, numbers: int) -> int:
        """How many numbers the log lacks up to `through`, at least; 0 if no entry is missing.

        `numbers` is how many SQL had taken when it had passed `after`. Sequences have no gaps, in whichever
        epochs, as long as `after` is an entry of this Redis: a cursor of its epoch, or what it notes as
        stored.
        """
        if self.after.epoch != self.end.epoch and (
            self.after != self.stored or not self.stored.epoch
        ):
            return 0
        entries = self.through.sequence - self.after.sequence - len(self.entries)
        if entries <= 0:
            return 0
        forgotten = self.trimmed.numbers - numbers if self.trimmed.through > self.after else 0
        return max(entries, forgotten)


class DrainedLog(NamedTuple):
    """How far a shard's log is stored, and how many numbers drains had stored or dropped up to there."""

    through: EntryId
    numbers: int


class LogEnd(NamedTuple):
    """A log's last entry, the last one that is stored (0-0 if none is), and how many are not stored yet."""

    entry: EntryId
    stored: EntryId
    waiting: int


class LogSize(NamedTuple):
    """The entries that a log holds, stored or not, and about how many bytes of memory they take."""

    entries: int
    bytes: int
