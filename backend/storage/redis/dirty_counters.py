"""Parents whose count SQL does not know yet: how they are named there, found, and released."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.errors import foreign_data_error
from backend.storage.redis.types import CounterReadings, StaleEpoch

_MEMBER_NAME = re.compile("[A-Za-z0-9_-]{1,64}(:[1-9][0-9]{0,15})?")


class DirtyCounterCalls(RedisClient):
    """What sync-counters asks."""

    def read_counters(self, shard: int, epoch: int, parents: Sequence[Parent]) -> CounterReadings:
        """What sync-counters has to know of some counters. StaleEpoch if Redis is not in `epoch`."""
        keys = [self.key(shard, "epoch"), self.key(shard, "dirty")]
        keys += [self.counter_key(shard, parent) for parent in parents]
        reply = self._call("read_counters", keys, [epoch])
        if reply[0] == b"broken":
            raise foreign_data_error("dirty counters", shard)
        if reply[0] != b"ok":
            raise StaleEpoch(text(reply[1]))
        _, sequence, now, oldest, found = reply
        return CounterReadings(
            [int(value) if value else None for value in found],
            EntryId(epoch, int(sequence)),
            int(now),
            int(float(oldest)) if oldest else None,
        )

    def dirty_page(self, shard: int, before: int, skip: int, limit: int) -> list[Parent]:
        """A page of a shard's parents that are dirty since before a time, the oldest first."""
        with self.translate_errors():
            found: Any = self.redis.zrangebyscore(
                self.key(shard, "dirty"), "-inf", before, start=skip, num=limit
            )
        return [parse_member_name(text(name), shard) for name in found]

    def ack_synced(
        self, shard: int, epoch: int, read: Mapping[Parent, int | None], since: int
    ) -> int:
        """Have parents be dirty no more whose counter still is what was read; returns how many.

        One whose counter went on is dirty since the given time only. In another epoch than `epoch`
        nothing is changed.
        """
        if not read:
            return 0
        keys = [self.key(shard, "epoch"), self.key(shard, "dirty")]
        arguments: list[str | int] = [epoch, since]
        for parent, issued in read.items():
            keys.append(self.counter_key(shard, parent))
            arguments += (member_name(parent), "" if issued is None else issued)
        return int(self._call("ack_synced", keys, arguments))

    def count_dirty(self, shards: int) -> list[int]:
        """How many parents of each shard have counts that SQL does not know yet."""
        return self._each_shard("zcard", "dirty", shards)


def member_name(parent: Parent) -> str:
    """How a parent is called among the dirty."""
    token, chat = parent
    return token if chat is None else f"{token}:{chat}"


def parse_member_name(name: str, shard: int) -> Parent:
    """The parent that is called so among the dirty."""
    if not _MEMBER_NAME.fullmatch(name):
        raise foreign_data_error("dirty counters", shard)
    token, _, chat = name.partition(":")
    return Parent(token, int(chat) if chat else None)
