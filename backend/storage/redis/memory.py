"""How much memory Redis uses."""

from typing import NamedTuple

from backend.storage.redis.client import RedisClient


class NodeMemory(NamedTuple):
    """How many bytes a node uses, and may use: without a limit of its own, all that its machine has."""

    used: int
    limit: int


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
        return [
            NodeMemory(
                int(node["used_memory"]),
                int(node.get("maxmemory") or node.get("total_system_memory") or 0),
            )
            for node in nodes
        ]
