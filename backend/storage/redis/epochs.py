"""The epochs of a shard: the one that Redis is in, and the numbers that it has issued."""

from collections.abc import Sequence

from backend.domain.errors import NodeDown
from backend.domain.model import EntryId
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.epoch_value import parse_epoch_value
from backend.storage.redis.types import EpochState

_BEGINNING = EntryId(0, 0)


class EpochCalls(RedisClient):
    """Reads a shard's epoch, and writes the next one."""

    def probe(self, shard: int) -> EpochState:
        """The shard's epoch as Redis has it, without a comparison with anything that the caller knows."""
        state, epoch, highest, sequence, installation, stored, server = self._call(
            "probe_epoch", [self.key(shard, "epoch"), self.key(shard, "log")], []
        )
        return EpochState(
            status=text(state),
            epoch=int(epoch),
            highest=int(highest),
            sequence=int(sequence),
            installation=text(installation),
            stored=EntryId.parse(text(stored)),
            server=f"{text(server)}/{self.database_number}",
        )

    def set_epoch(
        self, shard: int, epoch: int, installation: str, cursor: EntryId = _BEGINNING
    ) -> bool:
        """Write an epoch that is committed in SQL; False if Redis has one that is at least as high.

        What the log holds behind SQL's cursor counts as not stored from now on.
        """
        keys = [self.key(shard, name) for name in ("epoch", "marks")]
        written = self._call(
            "set_epoch", keys, [epoch, installation, cursor.epoch, cursor.sequence]
        )
        return bool(written)

    def try_issued(self, shards: Sequence[int]) -> dict[int, int | NodeDown]:
        """How many numbers this Redis has issued in each shard; after a loss it is lower than before.

        A value of another program in place of an epoch counts as 0: the shard's next call raises the error.
        NodeDown takes the place of the number of a shard whose node did not answer.
        """
        values = self._each_shard("GET", "epoch", shards)
        return {
            shard: value if isinstance(value, NodeDown) else parse_epoch_value(value).issued
            for shard, value in zip(shards, values, strict=True)
        }
