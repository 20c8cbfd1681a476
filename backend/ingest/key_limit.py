"""The part of Redis's memory that a shard's idempotency keys may take.

They are kept for a day, and no worker makes room for others: without a bound, one application that sends a
new key with each request would have Redis refuse everybody's creations until the keys expire. How many keys a
shard has is found by looking at some keys at random, and only where there are enough for that to matter.
"""

from contextlib import suppress
from typing import Final

from backend.domain.errors import EngineDown
from backend.storage.redis.errors import CommandRefused
from backend.storage.redis.idempotency_keys import IDEMPOTENCY_KEY_BYTES
from backend.storage.redis.log import Log

MAX_SHARD_SHARE: Final = 0.5  # of the memory of a Redis, or of a node of a cluster
SAMPLE_SIZE: Final = 100  # which finds a share of a half within a seventh of it


class KeyLimit:
    """Which shards have too many idempotency keys. Thread-safe."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.full: frozenset[int] = frozenset()
        """At the last `refresh`. For these shards no request with an idempotency key is accepted."""

    def refresh(self) -> None:
        """Look at the keys of all nodes. While Redis does not answer, or refuses to say, nothing changes."""
        with suppress(EngineDown, CommandRefused):
            limits = [node.limit for node in self._log.node_memory() if node.limit]
            most = min(limits, default=0) * MAX_SHARD_SHARE / IDEMPOTENCY_KEY_BYTES
            counts = self._log.count_all_keys()
            if not most or max(counts, default=0) < most:
                self.full = frozenset()
                return
            samples = self._log.sample_idempotency_keys(SAMPLE_SIZE)
            self.full = frozenset(
                shard
                for count, sample in zip(counts, samples, strict=True)
                for shard, found in sample.items()
                if count * found / SAMPLE_SIZE > most
            )
