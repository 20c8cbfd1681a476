"""Whether Redis has memory left for accepting."""

import time
from typing import Any, NamedTuple

from backend.storage.redis.client import RedisClient
from backend.storage.redis.errors import log_full_error

MAX_MEMORY_SHARE = 0.85  # of Redis's limit; the rest is left for the job queue and the drain
READING_LIFETIME_SECONDS = 1.0


class _Reading(NamedTuple):
    at: float  # on the monotonic clock
    share: float


class NodeMemory(NamedTuple):
    """How many bytes a node uses, and may use: without a limit of its own, all that its machine has."""

    used: int
    limit: int


class MemoryCalls(RedisClient):
    """Reads a server's use of memory at most once a second, and refuses to accept while it is short.

    Of a cluster, each node is read and refuses by itself: `shard` is any shard of the node that is meant.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._memory: dict[str, _Reading] = {}  # by the name of the node

    @property
    def has_fresh_memory_reading(self) -> bool:
        """Whether `raise_if_full` can decide for a single server: whether it was read in the last second."""
        return self._is_fresh("")

    def read_memory(self, shard: int = 0) -> None:
        """Ask the server of a shard how much of its memory it uses."""
        with self.translate_errors():
            found = self._execute(self.key(shard, "epoch"), "INFO", "memory")
            limit = found["maxmemory"]
            share = found["used_memory"] / limit if limit else 0.0
            self._memory[self._server_name(shard)] = _Reading(time.monotonic(), share)

    def raise_if_full(self, shard: int = 0) -> None:
        """Raise LogFull if memory was short at the last reading."""
        reading = self._memory.get(self._server_name(shard))
        if reading and reading.share > MAX_MEMORY_SHARE:
            raise log_full_error(f"Redis uses {reading.share:.0%} of its memory limit")

    def node_memory(self) -> list[NodeMemory]:
        """The memory of the server, or of each primary of a cluster that answers.

        Raises EngineDown if none answers.
        """
        with self.translate_errors():
            answers = self._on_each_server(("INFO", "memory"))
            nodes = [answer for answer in answers if not isinstance(answer, Exception)]
            if not nodes:
                raise answers[0]
        return [
            NodeMemory(
                int(node["used_memory"]),
                int(node.get("maxmemory") or node.get("total_system_memory") or 0),
            )
            for node in nodes
        ]

    def _check_memory(self, shard: int) -> None:
        if not self._is_fresh(self._server_name(shard)):
            self.read_memory(shard)
        self.raise_if_full(shard)

    def _server_name(self, shard: int) -> str:
        if not self.is_cluster:
            return ""
        with self.translate_errors():
            return self._cluster.node_name(self.key(shard, "epoch"))

    def _is_fresh(self, name: str) -> bool:
        reading = self._memory.get(name)
        return reading is not None and time.monotonic() - reading.at <= READING_LIFETIME_SECONDS
