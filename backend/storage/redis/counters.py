"""The counters: raised to what SQL has, looked at, closed and opened, dropped."""

import re
from collections.abc import Iterator, Mapping, Sequence

from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.dirty_counters import member_name
from backend.storage.redis.errors import foreign_data_error
from backend.storage.redis.types import CounterState, StaleEpoch

SCAN_COUNT = 1_000  # keys that one step of a walk looks at
_COUNTER_KEY = re.compile(
    rb"instachat:\{[0-9]+\}:(?:app:([A-Za-z0-9_-]{1,64})|chat:([A-Za-z0-9_-]{1,64}):([1-9][0-9]{0,15}))"
)


class CounterCalls(RedisClient):
    """Everything about counters but the giving of numbers, which is `accept`'s."""

    def verify(
        self,
        shard: int,
        epoch: int,
        parent: Parent,
        highest: int,
        *,
        create: bool,
        passed: EntryId | None = None,
    ) -> int | None:
        """Raise a counter to the rows' highest number; returns `issued`.

        None if there is no counter and `create` is false. StaleEpoch if Redis is not in `epoch`. With
        `passed`, the entry up to which SQL has decided and left the parent alive, a deletion up to
        there keeps it closed no longer.
        """
        reply = self._call(
            "verify",
            [
                self.key(shard, "epoch"),
                self.counter_key(shard, parent),
                self.key(shard, "dirty"),
            ],
            [epoch, highest, int(create), f"{passed or ''}", member_name(parent)],
        )
        if reply[0] == b"stale":
            raise StaleEpoch(text(reply[1]))
        return int(reply[1]) if reply[0] == b"ok" else None

    def raise_all(
        self, shard: int, epoch: int, numbers: Mapping[Parent, int], *, create: bool
    ) -> tuple[bool, EntryId]:
        """Raise many counters, as `verify` does one, and mark their parents as dirty, in one call.

        Returns whether all are there now (without `create` one that is missing stays so), and the
        log's end: whatever was given before is in the log up to it. StaleEpoch, changing nothing, if
        Redis is not in `epoch`.
        """
        keys = [self.key(shard, "epoch"), self.key(shard, "dirty")]
        arguments: list[str | int] = [epoch, int(create)]
        for parent, number in numbers.items():
            keys.append(self.counter_key(shard, parent))
            arguments += (number, member_name(parent))
        reply = self._call("raise", keys, arguments)
        if reply[0] == b"broken":
            raise foreign_data_error("dirty counters", shard)
        if reply[0] != b"ok":
            raise StaleEpoch(text(reply[1]))
        _, sequence, missing = reply
        return not missing, EntryId(epoch, int(sequence))

    def read_issued(
        self, shard: int, parents: Sequence[Parent]
    ) -> tuple[list[int | None], EntryId]:
        """The highest number given under each parent, None where not verified; and the log's end.

        The end is read after the numbers: each of them is in the log up to it. StaleEpoch as usual.
        """
        reply = self._call(
            "read_issued",
            [self.key(shard, "epoch"), *(self.counter_key(shard, p) for p in parents)],
            [],
        )
        if reply[0] != b"ok":
            raise StaleEpoch(text(reply[1]))
        _, epoch, sequence, found = reply
        return (
            [None if value is None else int(value) for value in found],
            EntryId(int(epoch), int(sequence)),
        )

    def inspect(self, shard: int, parents: Sequence[Parent]) -> tuple[list[CounterState], EntryId]:
        """The counters of these parents as they are, and the log's end as read after them.

        Changes nothing and judges nothing: where Redis has no life of ours the end is `0-0`, and no
        counter is verified.
        """
        keys = [self.key(shard, "epoch"), *(self.counter_key(shard, p) for p in parents)]
        epoch, sequence, found = self._call("inspect", keys, [])
        counters = [
            CounterState(None if issued is None else int(issued), bool(verified), bool(open_))
            for issued, verified, open_ in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]
        return counters, EntryId(int(epoch), int(sequence))

    def scan_parents(self, shard: int | None = None, token: str = "*") -> Iterator[Parent]:
        """Everything that has a counter, in no order, perhaps twice: in one shard, or of one token.

        Whatever had one during the whole of the walk is in it.
        """
        pattern = f"instachat:{{{'*' if shard is None else shard}}}:[ac][ph][pa]*:{token}*"
        with self.translate_errors():
            for name in self.redis.scan_iter(match=pattern, count=SCAN_COUNT):
                if found := _COUNTER_KEY.fullmatch(name):
                    of_app, of_chat, number = found.groups()
                    yield Parent((of_app or of_chat).decode(), int(number) if number else None)

    def is_closed_by(self, shard: int, epoch: int, parent: Parent, entry: EntryId) -> bool:
        """Whether that very entry has closed the parent's counter, in that life."""
        return self._check_closed(shard, epoch, parent, entry, "check")

    def reopen(self, shard: int, epoch: int, parent: Parent, entry: EntryId) -> bool:
        """Open a counter again that this entry had closed. Idempotent."""
        return self._check_closed(shard, epoch, parent, entry, "reopen")

    def _check_closed(
        self, shard: int, epoch: int, parent: Parent, entry: EntryId, act: str
    ) -> bool:
        keys = [self.key(shard, "epoch"), self.counter_key(shard, parent)]
        return bool(self._call("reopen", keys, [epoch, f"{entry}", act]))

    def set_closed(self, shard: int, epoch: int, removed: Mapping[Parent, bool]) -> None:
        """Close the counters of removed parents, and open the others', where there are any.

        For who stores them: what a counter says of a parent that SQL did not know is out of date.
        StaleEpoch, changing nothing, if Redis is not in `epoch`.
        """
        keys = [self.key(shard, "epoch"), *(self.counter_key(shard, p) for p in removed)]
        reply = self._call("set_closed", keys, [epoch, *(int(gone) for gone in removed.values())])
        if reply[0] != b"ok":
            raise StaleEpoch(text(reply[1]))

    def discard(self, shard: int, epoch: int, found: Mapping[Parent, int]) -> None:
        """Remove counters that still say what was found; StaleEpoch, changing nothing, in another epoch."""
        keys = [self.key(shard, "epoch"), *(self.counter_key(shard, p) for p in found)]
        reply = self._call("discard", keys, [epoch, *found.values()])
        if reply[0] != b"ok":
            raise StaleEpoch(text(reply[1]))

    def drop_counters(self, shard: int, parents: Sequence[Parent]) -> None:
        """Drop the counters of chats whose application is removed, and closed here. Idempotent."""
        with self.translate_errors():
            self.redis.unlink(*(self.counter_key(shard, parent) for parent in parents))
            self.redis.zrem(self.key(shard, "dirty"), *map(member_name, parents))
