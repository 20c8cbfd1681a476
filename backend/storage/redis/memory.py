"""Whether Redis has memory left for accepting."""

import time
from typing import Any, NamedTuple

from redis.cluster import RedisCluster

from backend.storage.redis.client import RedisClient
from backend.storage.redis.errors import log_full_error

MAX_MEMORY_SHARE = 0.85  # of Redis's limit; the rest is left for the job queue and the drain


class NodeMemory(NamedTuple):
    """How many bytes a node uses, and may use: without a limit of its own, all that its machine has."""

    used: int
    limit: int


class MemoryCalls(RedisClient):
    """Reads Redis's use of memory at most once a second, and refuses to accept while it is short."""

    _memory_read = float("-inf")  # on the monotonic clock
    _memory_share = 0.0

    @property
    def has_fresh_memory_reading(self) -> bool:
        """Whether `raise_if_full` can decide: whether memory was read in the last second."""
        return time.monotonic() - self._memory_read <= 1

    def read_memory(self) -> None:
        """Ask Redis how much of its memory it uses; of a cluster, the fullest node counts."""
        with self.translate_errors():
            nodes = self._info("memory")
        self._memory_share = max(
            (node["used_memory"] / node["maxmemory"] for node in nodes if node.get("maxmemory")),
            default=0.0,
        )
        self._memory_read = time.monotonic()

    def raise_if_full(self) -> None:
        """Raise LogFull if memory was short at the last reading."""
        if self._memory_share > MAX_MEMORY_SHARE:
            raise log_full_error(f"Redis uses {self._memory_share:.0%} of its memory limit")

    def _check_memory(self) -> None:
        if not self.has_fresh_memory_reading:
            self.read_memory()
        self.raise_if_full()

    def node_memory(self) -> list[NodeMemory]:
        """The memory of the server, or of each primary of a cluster."""
        options = (
            {"target_nodes": RedisCluster.PRIMARIES} if isinstance(self.redis, RedisCluster) else {}
        )
        with self.translate_errors():
            found: Any = self.redis.info("memory", **options)
        nodes = list(found.values()) if options and "used_memory" not in found else [found]
        return [
            NodeMemory(
                int(node["used_memory"]),
                int(node.get("maxmemory") or node.get("total_system_memory") or 0),
            )
            for node in nodes
        ]
