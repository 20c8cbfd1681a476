"""How much memory Redis uses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from backend.storage.redis.client import RedisClient


class NodeMemory(NamedTuple):
    """How many bytes a node uses, and may use: without a limit of its own, all that its machine has.

    What it uses is everything: the log, counters, idempotency keys, the job queue. `limit` is 0 if the node
    does not tell.
    """

    used: int
    limit: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "NodeMemory":
        """The memory of a node, of its INFO."""
        limit = info.get("maxmemory") or info.get("total_system_memory") or 0
        return cls(int(info["used_memory"]), int(limit))

    @property
    def share(self) -> float | None:
        """Which part of its limit it uses; None if that is not known."""
        return self.used / self.limit if self.limit else None


class MemoryCalls(RedisClient):
    """Reads the memory of all servers."""

    def node_memory(self) -> list[NodeMemory]:
        """The memory of the server, or of each primary of a cluster that answers.

        Raises EngineDown if none answers.
        """
        with self.translate_errors():
            answers = self._on_each_server(("INFO", "memory"))
            nodes = [answer for answer in answers if not isinstance(answer, Exception)]
            if not nodes:
                raise answers[0]
        return [NodeMemory.of(node) for node in nodes]
