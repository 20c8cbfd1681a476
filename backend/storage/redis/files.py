"""The files in which Redis keeps its data."""

import time
from typing import Any

from backend.domain.errors import Failed
from backend.storage.redis.client import RedisClient

POLL_SECONDS = 0.1


class FileCalls(RedisClient):
    """Has the servers rewrite their files."""

    def rewrite_files(self) -> None:
        """Have each primary write its file anew, with what it holds now; waits until that is done.

        Replicas have files of their own. Raises EngineDown, and Failed if a server could not do it.
        """
        servers = self._wait_for_files()
        command = "BGREWRITEAOF" if all(info["aof_enabled"] for info in servers) else "BGSAVE"
        with self.translate_errors():
            for answer in self._on_each_server((command,)):
                if isinstance(answer, Exception):
                    raise answer
        key = "aof_last_bgrewrite_status" if command == "BGREWRITEAOF" else "rdb_last_bgsave_status"
        if any(info[key] != "ok" for info in self._wait_for_files()):
            raise Failed("Redis could not rewrite its file", "see its log: is its disk full?")

    def _wait_for_files(self) -> list[dict[str, Any]]:
        """What the servers say of their files, once none is writing one."""
        busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
        while True:
            servers = self.server_info("persistence")
            if not any(info[name] for info in servers for name in busy):
                return servers
            time.sleep(POLL_SECONDS)
