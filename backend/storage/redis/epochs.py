"""The lives of a shard: which one Redis is in, and what it has given in it."""

from backend.storage.redis.client import Calls, text
from backend.storage.redis.errors import is_foreign
from backend.storage.redis.types import Life


class LifeCalls(Calls):
    """Looking at a shard's life, and beginning another."""

    def probe(self, shard: int) -> Life:
        """What is there, judged by nothing the caller knows."""
        state, epoch, highest, sequence, installation = self._call(
            "probe", [self.key(shard, "life"), self.key(shard, "log")], []
        )
        return Life(text(state), int(epoch), int(highest), int(sequence), text(installation))

    def write_life(self, shard: int, epoch: int, installation: str) -> bool:
        """Begin a life that was claimed in SQL. Only ever raises the epoch."""
        return bool(self._call("claim", [self.key(shard, "life")], [epoch, installation]))

    def given(self, shards: int) -> int:
        """How many numbers this Redis has given in all; less than before after a loss.

        Something foreign in a life's place has given none: the next call of that shard will name it.
        """
        with self.in_our_words():
            pipe = self.redis.pipeline(transaction=False)
            for shard in range(shards):
                pipe.hget(self.key(shard, "life"), "given")
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_foreign(answer):
                    raise answer
        return sum(int(given) for given in answers if isinstance(given, bytes) and given.isdigit())
