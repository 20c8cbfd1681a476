"""Parents whose count SQL does not know yet: how they are named there, found, and released."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import Calls, text
from backend.storage.redis.errors import foreign
from backend.storage.redis.types import Counts, LifeLost

_NAME = re.compile("[A-Za-z0-9_-]{1,64}(:[1-9][0-9]{0,15})?")


class UnsyncedCalls(Calls):
    """What sync-counters asks."""

    def counted(self, shard: int, epoch: int, parents: Sequence[Parent]) -> Counts:
        """What sync-counters has to know of some counters. LifeLost if Redis is not in `epoch`."""
        keys = [self.key(shard, "life"), self.key(shard, "unsynced")]
        keys += [self.counter_key(shard, parent) for parent in parents]
        reply = self._call("counted", keys, [epoch])
        if reply[0] == b"broken":
            raise foreign("unsynced counts", shard)
        if reply[0] != b"ok":
            raise LifeLost(text(reply[1]))
        _, sequence, now, oldest, found = reply
        return Counts(
            [int(value) if value else None for value in found],
            EntryId(epoch, int(sequence)),
            int(now),
            int(float(oldest)) if oldest else None,
        )

    def unsynced_page(self, shard: int, before: int, skip: int, limit: int) -> list[Parent]:
        """A page of a shard's parents that are unsynced since before a time, the oldest first."""
        with self.in_our_words():
            found: Any = self.redis.zrangebyscore(
                self.key(shard, "unsynced"), "-inf", before, start=skip, num=limit
            )
        return [parent_of(text(name), shard) for name in found]

    def release(self, shard: int, epoch: int, read: Mapping[Parent, int | None], since: int) -> int:
        """Have parents be unsynced no more whose counter still is what was read; returns how many.

        One whose counter went on is unsynced since the given time only. In another life than `epoch`
        nothing is changed.
        """
        if not read:
            return 0
        keys = [self.key(shard, "life"), self.key(shard, "unsynced")]
        arguments: list[str | int] = [epoch, since]
        for parent, issued in read.items():
            keys.append(self.counter_key(shard, parent))
            arguments += (name_of(parent), "" if issued is None else issued)
        return int(self._call("synced", keys, arguments))

    def unsynced(self, shards: int) -> list[int]:
        """How many parents of each shard have counts that SQL does not know yet."""
        return self._each_shard("zcard", "unsynced", shards)


def name_of(parent: Parent) -> str:
    """How a parent is called among the unsynced."""
    token, chat = parent
    return token if chat is None else f"{token}:{chat}"


def parent_of(name: str, shard: int) -> Parent:
    """The parent that is called so among the unsynced."""
    if not _NAME.fullmatch(name):
        raise foreign("unsynced counts", shard)
    token, _, chat = name.partition(":")
    return Parent(token, int(chat) if chat else None)
