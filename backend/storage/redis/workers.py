"""The workers: how many are running, and whether they are paused."""

import time
from typing import Any

from backend.storage.redis.client import RedisClient
from backend.storage.redis.keys import PAUSED_KEY, WORKERS_KEY

WORKER_TIMEOUT_SECONDS = 3.0  # after its last heartbeat a worker counts as running for this long
FORGET_WORKER_SECONDS = 3600


class WorkerCalls(RedisClient):
    """Heartbeats, pause and resume."""

    def record_heartbeat(self, worker: str) -> None:
        """Record that a worker is running; removes those whose last heartbeat is an hour old."""
        now = time.time()
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            pipe.zadd(WORKERS_KEY, {worker: now})
            pipe.zremrangebyscore(WORKERS_KEY, "-inf", now - FORGET_WORKER_SECONDS)
            pipe.execute()

    def remove_worker(self, worker: str) -> None:
        """Record that a worker has stopped."""
        with self.translate_errors():
            self.redis.zrem(WORKERS_KEY, worker)

    def count_workers(self) -> int:
        """How many workers are running: those with a heartbeat in the last three seconds."""
        with self.translate_errors():
            found: Any = self.redis.zcount(
                WORKERS_KEY, time.time() - WORKER_TIMEOUT_SECONDS, "+inf"
            )
        return int(found)

    def pause(self) -> None:
        """Have all workers, also those that start later, take no jobs and make no sweeps until `resume`."""
        with self.translate_errors():
            self.redis.set(PAUSED_KEY, 1)

    def resume(self) -> None:
        """Let workers work again."""
        with self.translate_errors():
            self.redis.delete(PAUSED_KEY)

    def paused(self) -> bool:
        """Whether workers are paused."""
        with self.translate_errors():
            return bool(self.redis.exists(PAUSED_KEY))
