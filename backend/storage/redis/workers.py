"""The workers: which of them run, and whether they shall rest."""

import time
from typing import Any

from backend.storage.redis.client import RedisClient

WORKER_TIMEOUT_SECONDS = 3.0  # a worker not heard of for this long is not running


class WorkerCalls(RedisClient):
    """Heartbeats, pause and resume."""

    def record_heartbeat(self, worker: str) -> None:
        """A worker says that it is running; forgets those long gone."""
        now = time.time()
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            pipe.zadd("instachat:workers", {worker: now})
            pipe.zremrangebyscore("instachat:workers", "-inf", now - 3600)
            pipe.execute()

    def remove_worker(self, worker: str) -> None:
        """A worker says that it has stopped."""
        with self.translate_errors():
            self.redis.zrem("instachat:workers", worker)

    def count_workers(self) -> int:
        """How many workers are running: heard of within the last three seconds."""
        with self.translate_errors():
            found: Any = self.redis.zcount(
                "instachat:workers", time.time() - WORKER_TIMEOUT_SECONDS, "+inf"
            )
        return int(found)

    def pause(self) -> None:
        """Have workers take no jobs and make no sweeps until `resume`, whoever restarts meanwhile."""
        with self.translate_errors():
            self.redis.set("instachat:paused", 1)

    def resume(self) -> None:
        """Let workers work again."""
        with self.translate_errors():
            self.redis.delete("instachat:paused")

    def paused(self) -> bool:
        """Whether workers are told to rest."""
        with self.translate_errors():
            return bool(self.redis.exists("instachat:paused"))
