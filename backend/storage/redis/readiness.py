"""Whether a server can accept: it has memory left, and the command that waits for replicas."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from backend.domain.errors import EngineDown, InstaChatError
from backend.storage.redis.client import RedisClient
from backend.storage.redis.errors import CommandRefused, log_full_error
from backend.storage.redis.memory import NodeMemory

# Of Redis's limit, or else of its machine's memory; the rest is left for the job queue and the drain.
MAX_MEMORY_SHARE = 0.85
READING_LIFETIME_SECONDS = 1.0
INFO_COMMAND = ("INFO", "memory", "server")


class _Reading(NamedTuple):
    at: float  # on the monotonic clock
    info: Mapping[str, Any]


class ReadinessCalls(RedisClient):
    """Reads at most once a second whether a server can accept, and refuses while it can't.

    Of a cluster, each node is read and refuses by itself. A node has the name that the client library gives
    it, HOST:PORT; a single server has the name "".
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._readings: dict[str, _Reading] = {}  # by the name of the server

    def has_fresh_reading(self, server: str = "") -> bool:
        """Whether `raise_unless_ready` can decide: whether `record_info` had a reading in the last second."""
        reading = self._readings.get(server)
        return reading is not None and time.monotonic() - reading.at <= READING_LIFETIME_SECONDS

    def is_ready(self, server: str = "") -> bool:
        """Whether there is a fresh reading, and `raise_unless_ready` does not raise."""
        if not self.has_fresh_reading(server):
            return False
        try:
            self.raise_unless_ready(server)
        except InstaChatError:
            return False
        return True

    def record_info(self, info: Mapping[str, Any], server: str = "") -> None:
        """Keep what a server has replied to INFO_COMMAND."""
        self._readings[server] = _Reading(time.monotonic(), info)

    def raise_unless_ready(self, server: str = "") -> None:
        """Raise LogFull if memory was short at the last reading, EngineDown if the server is too old."""
        _, info = self._readings[server]
        if self.replica_wait:
            self.replica_wait.check_version(info)
        share = NodeMemory.of(info).share
        if share is not None and share > MAX_MEMORY_SHARE:
            limit = (
                "its memory limit" if int(info.get("maxmemory") or 0) else "its machine's memory"
            )
            raise log_full_error(f"Redis uses {share:.0%} of {limit}")

    def refuse_old_servers(self) -> None:
        """Raise EngineDown if replicas are to be waited for and a server lacks the command.

        Checks nothing if Redis does not answer, or does not permit INFO.
        """
        if self.replica_wait is None:
            return
        try:
            servers = self.server_info("server")
        except (EngineDown, CommandRefused):
            return
        for info in servers:
            self.replica_wait.check_version(info)

    def _check_readiness(self, shard: int) -> None:
        key = self.key(shard, "epoch")
        with self.translate_errors():
            server = self._cluster.node_name(key) if self.is_cluster else ""
        if not self.has_fresh_reading(server):
            self.record_info(self._execute(key, *INFO_COMMAND), server)
        self.raise_unless_ready(server)
