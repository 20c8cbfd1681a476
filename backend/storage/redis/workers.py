"""The workers: which of them run, and whether they shall rest."""

import time
from typing import Any

from backend.storage.redis.client import Calls

WORKER_SECONDS = 3.0  # a worker not heard of for this long is not running


class WorkerCalls(Calls):
    """Heartbeats, pause and resume."""

    def beat(self, worker: str) -> None:
        """A worker says that it is running; forgets those long gone."""
        now = time.time()
        with self.in_our_words():
            pipe = self.redis.pipeline(transaction=False)
            pipe.zadd("instachat:workers", {worker: now})
            pipe.zremrangebyscore("instachat:workers", "-inf", now - 3600)
            pipe.execute()

    def retire(self, worker: str) -> None:
        """A worker says that it has stopped."""
        with self.in_our_words():
            self.redis.zrem("instachat:workers", worker)

    def workers(self) -> int:
        """How many workers are running: heard of within the last three seconds."""
        with self.in_our_words():
            found: Any = self.redis.zcount(
                "instachat:workers", time.time() - WORKER_SECONDS, "+inf"
            )
        return int(found)

    def pause(self) -> None:
        """Have workers take no jobs and make no sweeps until `resume`, whoever restarts meanwhile."""
        with self.in_our_words():
            self.redis.set("instachat:paused", 1)

    def resume(self) -> None:
        """Let workers work again."""
        with self.in_our_words():
            self.redis.delete("instachat:paused")

    def paused(self) -> bool:
        """Whether workers are told to rest."""
        with self.in_our_words():
            return bool(self.redis.exists("instachat:paused"))
