"""The epochs of a shard: which one Redis is in, and what it has given in it."""

from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.errors import is_wrong_type
from backend.storage.redis.types import EpochState


class EpochCalls(RedisClient):
    """Looking at a shard's life, and beginning another."""

    def probe(self, shard: int) -> EpochState:
        """What is there, judged by nothing the caller knows."""
        state, epoch, highest, sequence, installation = self._call(
            "probe", [self.key(shard, "epoch"), self.key(shard, "log")], []
        )
        return EpochState(text(state), int(epoch), int(highest), int(sequence), text(installation))

    def set_epoch(self, shard: int, epoch: int, installation: str) -> bool:
        """Begin a life that was claimed in SQL. Only ever raises the epoch."""
        return bool(self._call("set_epoch", [self.key(shard, "epoch")], [epoch, installation]))

    def total_issued(self, shards: int) -> int:
        """How many numbers this Redis has given in all; less than before after a loss.

        A foreign value under an epoch key counts as none: the next call of that shard will name it.
        """
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            for shard in range(shards):
                pipe.hget(self.key(shard, "epoch"), "issued_total")
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_wrong_type(answer):
                    raise answer
        return sum(int(count) for count in answers if isinstance(count, bytes) and count.isdigit())
