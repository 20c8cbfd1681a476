"""The counters: raised to SQL's numbers, read, closed, opened and deleted. `accept` issues their numbers."""

from collections.abc import Iterator, Mapping, Sequence

from backend.domain.errors import NodeDown
from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.keys import counter_pattern, member_name, parse_counter_key
from backend.storage.redis.types import ApplicationMoving, CounterState, StaleEpoch

SCAN_COUNT = 1_000  # keys that one SCAN inspects
NO_ENTRY = EntryId(0, 0)
"""What has closed a counter that `set_closed` closed, and no entry of the log."""


Issued = dict[Parent, int | None]
"""The highest number issued under each parent; None if its counter can't be read without SQL."""


def applications_of(parents: Sequence[Parent]) -> list[Parent]:
    """The applications of parents, once each: their counters say whether they have moved to another shard."""
    return [Parent(token) for token in dict.fromkeys(parent.token for parent in parents)]


class CounterCalls(RedisClient):
    """Everything about counters except issuing their numbers."""

    def verify(
        self,
        shard: int,
        epoch: int,
        parent: Parent,
        highest: int,
        *,
        create: bool,
        passed: EntryId | None = None,
        moves: int | None = None,
        per_second: int | None = None,
    ) -> int | None:
        """Raise a counter to the rows' highest number; returns the highest number issued.

        Returns None if there is no counter and `create` is false. `passed` is the entry up to which SQL has
        decided deletions and left the parent alive: a counter that a deletion up to there has closed is
        opened. `moves` is how often an application that is in this shard has moved: a counter that one of
        these moves has closed is opened. `per_second` is the rate limit of an application, None without one.

        Raises StaleEpoch if Redis is not in `epoch`, and ApplicationMoving if a later move has closed it.
        """
        reply = self._call_fenced(
            "verify_counter",
            shard,
            [self.key(shard, "epoch"), self.counter_key(shard, parent), self.key(shard, "dirty")],
            [
                epoch,
                highest,
                int(create),
                f"{passed or ''}",
                member_name(parent),
                "" if moves is None else moves,
                "" if per_second is None else per_second,
            ],
        )
        if reply[0] != b"ok":
            return None
        if mark := text(reply[2]):
            raise ApplicationMoving(mark)
        return int(reply[1])

    def raise_all(
        self, shard: int, epoch: int, numbers: Mapping[Parent, int], *, create: bool
    ) -> tuple[bool, EntryId]:
        """Raise many counters, as `verify` raises one, and mark their parents as dirty, in one call.

        Returns whether all are there now (without `create` a missing counter stays missing), and the log's
        end: it includes every number that was issued before. Raises StaleEpoch, with nothing changed, if
        Redis is not in `epoch`.
        """
        keys = [self.key(shard, "epoch"), self.key(shard, "dirty"), *self._counters(shard, numbers)]
        arguments: list[str | int] = [epoch, int(create)]
        for parent, number in numbers.items():
            arguments += (number, member_name(parent))
        _, sequence, missing = self._call_fenced("raise_counters", shard, keys, arguments)
        return not missing, EntryId(epoch, int(sequence))

    def read_issued(
        self, shard: int, parents: Sequence[Parent]
    ) -> tuple[list[int | None], EntryId]:
        """The highest number issued under each parent, None if its counter is not verified, or in another
        shard now; and the log's end.

        The end is read after the numbers, so it includes all of them. Raises StaleEpoch if this Redis has no
        current epoch.
        """
        keys = [
            self.key(shard, "epoch"),
            *self._counters(shard, [*parents, *applications_of(parents)]),
        ]
        _, epoch, sequence, found = self._call_fenced("read_issued", shard, keys, [len(parents)])
        return (
            [None if value is None else int(value) for value in found],
            EntryId(int(epoch), int(sequence)),
        )

    def read_issued_each(self, parents: Mapping[int, Sequence[Parent]]) -> Issued:
        """The numbers issued under the parents of each shard. Raises EngineDown.

        None for a counter that is not verified, and for those of a shard without a current epoch; of a
        cluster, also for those of a shard whose node does not answer.
        """
        found: Issued = {}
        for shard, of_shard in parents.items():
            try:
                numbers, _ = self.read_issued(shard, of_shard)
            except (StaleEpoch, NodeDown):
                numbers = [None] * len(of_shard)
            found.update(zip(of_shard, numbers, strict=True))
        return found

    def inspect(self, shard: int, parents: Sequence[Parent]) -> tuple[list[CounterState], EntryId]:
        """The counters of these parents as they are, and the log's end, which is read after them.

        Changes nothing. If this Redis has no current epoch, the end is `0-0`, and no counter is verified.
        """
        keys = [
            self.key(shard, "epoch"),
            *self._counters(shard, [*parents, *applications_of(parents)]),
        ]
        epoch, sequence, found = self._call("inspect_counters", keys, [len(parents)])
        counters = [
            CounterState(None if issued is None else int(issued), bool(verified), bool(open_))
            for issued, verified, open_ in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]
        return counters, EntryId(int(epoch), int(sequence))

    def group_by_server(self, shards: Sequence[int]) -> list[list[int]]:
        """The shards of each server: of each node of a cluster, and those that no node serves."""
        if not self.is_cluster:
            return [list(shards)]
        by_node: dict[NodeAddress | None, list[int]] = {}
        for shard in shards:
            by_node.setdefault(self.node_of(shard), []).append(shard)
        return list(by_node.values())

    def scan_parents(self, shards: Sequence[int], token: str = "*") -> Iterator[Parent]:
        """All parents of these shards that have a counter, or those of one token: in no order, some twice.

        All shards must be of the same server (`group_by_server`). Includes every parent that has a counter
        during the whole scan.
        """
        pattern = counter_pattern(shards[0] if len(shards) == 1 else None, token)
        with self.translate_errors():
            keys = (
                self._cluster.scan(self.key(shards[0], "epoch"), pattern, SCAN_COUNT)
                if self.is_cluster
                else self.redis.scan_iter(match=pattern, count=SCAN_COUNT)
            )
            for key in keys:
                if parent := parse_counter_key(key):
                    yield parent

    def is_closed_by(self, shard: int, epoch: int, parent: Parent, entry: EntryId) -> bool:
        """Whether this entry, of this epoch, has closed the parent's counter."""
        return self._check_closed(shard, epoch, parent, entry, "check")

    def reopen(self, shard: int, epoch: int, parent: Parent, entry: EntryId | str) -> bool:
        """Open a counter that this entry, or mark of a move, had closed; returns whether it had."""
        return self._check_closed(shard, epoch, parent, entry, "reopen")

    def _check_closed(
        self, shard: int, epoch: int, parent: Parent, entry: EntryId | str, action: str
    ) -> bool:
        keys = [self.key(shard, "epoch"), self.counter_key(shard, parent)]
        return bool(self._call("reopen_counter", keys, [epoch, f"{entry}", action]))

    def set_closed(self, shard: int, epoch: int, removed: Mapping[Parent, bool]) -> None:
        """Close the counters of removed parents, and open the others; counters that are missing stay so.

        For callers that store these parents: a counter of a parent that SQL did not know is out of date.
        Raises StaleEpoch, with nothing changed, if Redis is not in `epoch`.
        """
        keys = [self.key(shard, "epoch"), *self._counters(shard, removed)]
        self._call_fenced("set_closed", shard, keys, [epoch, *map(int, removed.values())])

    def discard(self, shard: int, epoch: int, found: Mapping[Parent, int]) -> None:
        """Delete the counters that still have the value that was found.

        Raises StaleEpoch, with nothing changed, if Redis is not in `epoch`.
        """
        keys = [self.key(shard, "epoch"), *self._counters(shard, found)]
        self._call_fenced("discard_counters", shard, keys, [epoch, *found.values()])

    def drop_counters(self, shard: int, parents: Sequence[Parent]) -> None:
        """Delete the counters of chats whose application is removed and its counter closed. Idempotent."""
        counters = self._counters(shard, parents)
        dirty = self.key(shard, "dirty")
        self._execute(dirty, "UNLINK", *counters)
        self._execute(dirty, "ZREM", dirty, *map(member_name, parents))
