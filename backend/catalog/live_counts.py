"""Live counts: the numbers issued, from Redis, without those that hold nothing any more, from SQL.

The two are read at two moments, and a count has to be that of one: if a deletion and then a creation were
answered in between, their difference would be a count that was true at no moment. So the rows are read before
the numbers issued, and again after them. A row that is the same was the same when these were read. The others
are read once more, until they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backend.domain.errors import Unavailable
from backend.domain.model import Parent, no_application
from backend.ingest.counters import Counters
from backend.storage.postgres import chats, removed_numbers
from backend.storage.postgres.applications import StoredApplication
from backend.storage.postgres.chats import StoredChat
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.removed_numbers import RemovedNumbers

MAX_LOOKS = 50  # each of which takes less than a deletion, so that hardly any parent needs three

ReadRemoved = Callable[[Connection, Sequence[int]], dict[int, RemovedNumbers]]
ReadIssued = Callable[[Sequence[Parent]], Mapping[Parent, int]]


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """The live counts of applications and chats whose rows were read. Thread-safe.

    Each is the count of a moment after its row was read. Raises NotFound if a parent is not there any more,
    Unavailable if one changes again and again, EngineDown when an engine is away.
    """

    counters: Counters
    database: Database

    def of_application(self, row: StoredApplication) -> int:
        """How many chats an application has."""
        parent = Parent(row.token)
        rows = {parent: _of_application(row)}
        return self._count(rows, self._read_issued, removed_numbers.removed_chats)[parent]

    def of_applications(self, rows: Sequence[StoredApplication]) -> dict[str, int]:
        """How many chats each of many applications has, by token; without those deleted meanwhile."""
        shards = {row.token: row.shard for row in rows}

        def read_issued(parents: Sequence[Parent]) -> dict[Parent, int]:
            issued = self.counters.read_chats_issued({p.token: shards[p.token] for p in parents})
            return {Parent(token): number for token, number in issued.items()}

        found = {Parent(row.token): _of_application(row) for row in rows}
        counts = self._count(found, read_issued, removed_numbers.removed_chats)
        return {parent.token: count for parent, count in counts.items()}

    def of_chat(self, chat: Parent, row: StoredChat | None) -> int:
        """How many messages a chat has, accepted ones included; without a row if it is not stored yet."""
        if row is None:
            issued = self.counters.read_issued([chat])[0]
            assert chat.chat is not None
            with self.database.connect() as connection:
                row = chats.get_chat(connection, chat.token, chat.chat)
            if row is None:
                return issued
        return self.of_chats({chat: row})[chat]

    def of_chats(self, rows: Mapping[Parent, StoredChat]) -> Mapping[Parent, int]:
        """How many messages each of an application's chats has, deleted ones included."""
        found = {
            parent: RemovedNumbers(row.id, row.messages_removed, row.xmin)
            for parent, row in rows.items()
        }
        return self._count(found, self._read_issued, removed_numbers.removed_messages)

    def _read_issued(self, parents: Sequence[Parent]) -> Mapping[Parent, int]:
        return dict(zip(parents, self.counters.read_issued(parents), strict=True))

    def _count(
        self,
        rows: Mapping[Parent, RemovedNumbers],
        read_issued: ReadIssued,
        read_removed: ReadRemoved,
    ) -> dict[Parent, int]:
        """The counts of parents whose rows were read; without those that `read_issued` leaves out."""
        counts: dict[Parent, int] = {}
        for _ in range(MAX_LOOKS):
            if not rows:
                return counts
            issued = read_issued(list(rows))
            with self.database.connect() as connection:
                later = read_removed(connection, [row.id for row in rows.values()])
            changed: dict[Parent, RemovedNumbers] = {}
            for parent, row in rows.items():
                if parent not in issued:
                    continue
                if (now := later.get(row.id)) is None:
                    raise no_application()  # only with its application does a chat lose its row
                if now == row:
                    counts[parent] = issued[parent] - row.removed
                else:
                    changed[parent] = now
            rows = changed
        raise Unavailable("what is counted changes again and again", "try again")


def _of_application(row: StoredApplication) -> RemovedNumbers:
    return RemovedNumbers(row.id, row.chats_removed, row.xmin)
