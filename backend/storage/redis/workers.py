"""The workers: how many are running, and whether they are paused.

This is kept in the Redis of the job queue, which is one plain server also beside a Redis Cluster: in a
cluster these keys would be on one node, whose failure would stop the storing of all shards. While the queue's
Redis does not answer, what it said last holds, so that workers go on storing.

Heartbeats have the time of that Redis: the clocks of the workers' machines may differ.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from backend.domain.errors import InstaChatError
from backend.storage.redis.client import RedisClient, scores, unix_seconds
from backend.storage.redis.errors import RedisError
from backend.storage.redis.keys import PAUSED_KEY, WORKERS_KEY
from backend.storage.redis.pipeline import Command

WORKER_TIMEOUT_SECONDS = 3.0  # after its last heartbeat a worker counts as running for this long
FORGET_WORKER_SECONDS = 3600
RETRY_SECONDS = (
    1.0  # between two attempts to read the state while the queue's Redis does not answer
)
_TIME: Command = ("TIME",)
_HEARTBEATS: Command = ("ZRANGE", WORKERS_KEY, 0, -1, "WITHSCORES")


class WorkersState(NamedTuple):
    """What is known of the workers; None if the queue's Redis has not answered this process yet."""

    are_running: bool | None = None
    are_paused: bool | None = None

    @property
    def are_missing(self) -> bool:
        """Whether none is running, and they are not paused; False if that is not known."""
        return self.are_running is False and not self.are_paused


class Workers(RedisClient):
    """Heartbeats, pause and resume. Thread-safe.

    Every method but `state` and `may_work` raises EngineDown when the queue's Redis does not answer; `pause`
    and `resume` raise Unconfirmed if the reply was lost.
    """

    _state = WorkersState()
    _retry_at = 0.0  # on the monotonic clock; only while the last attempt has failed

    def __init__(self, url: str) -> None:
        """`url` is that of the job queue's Redis."""
        super().__init__(url)
        self._lock = threading.Lock()

    def record_heartbeat(self, worker: str) -> None:
        """Record that a worker is running; removes those whose last heartbeat is an hour old.

        Also those from later than now, which a clock that was ahead has left.
        """
        now = unix_seconds(self._execute(WORKERS_KEY, "TIME"))
        self._execute(WORKERS_KEY, "ZADD", WORKERS_KEY, repr(now), worker)
        for least, most in (
            ("-inf", repr(now - FORGET_WORKER_SECONDS)),
            (f"({now + WORKER_TIMEOUT_SECONDS!r}", "+inf"),
        ):
            self._execute(WORKERS_KEY, "ZREMRANGEBYSCORE", WORKERS_KEY, least, most)

    def remove(self, worker: str) -> None:
        """Record that a worker has stopped."""
        self._execute(WORKERS_KEY, "ZREM", WORKERS_KEY, worker)

    def count(self) -> int:
        """How many workers are running: those with a heartbeat in the last three seconds."""
        return _count_running(*self._read(_TIME, _HEARTBEATS))

    def pause(self) -> None:
        """Have all workers, also those that start later, take no jobs and make no sweeps until `resume`."""
        with self.unconfirmed_on_lost_reply():
            self._execute(PAUSED_KEY, "SET", PAUSED_KEY, 1)

    def resume(self) -> None:
        """Let workers work again."""
        with self.unconfirmed_on_lost_reply():
            self._execute(PAUSED_KEY, "DEL", PAUSED_KEY)

    def paused(self) -> bool:
        """Whether workers are paused."""
        return bool(self._execute(PAUSED_KEY, "EXISTS", PAUSED_KEY))

    def may_work(self) -> bool:
        """Whether workers may work: False while they are paused, or if that was never known."""
        return self.state().are_paused is False

    def state(self) -> WorkersState:
        """Whether workers run and whether they are paused: as the queue's Redis says, or as it said last.

        Never raises. While that Redis does not answer, one call a second tries, and the others do not wait.
        """
        with self._lock:
            if self._retry_at:
                if time.monotonic() < self._retry_at:
                    return self._state
                self._retry_at = time.monotonic() + self.reply_timeout_seconds + RETRY_SECONDS
        try:
            found = self._read_state()
        except (InstaChatError, RedisError):
            with self._lock:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return self._state
        with self._lock:
            self._retry_at, self._state = 0.0, found
        return found

    def _read_state(self) -> WorkersState:
        time_, heartbeats, paused = self._read(_TIME, _HEARTBEATS, ("EXISTS", PAUSED_KEY))
        return WorkersState(bool(_count_running(time_, heartbeats)), bool(paused))

    def _read(self, *commands: Command) -> list[Any]:
        with self.translate_errors():
            replies = self._pipeline("", *commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies


def _count_running(time_: Sequence[Any], heartbeats: Sequence[Any]) -> int:
    """How many workers have a recent heartbeat, by the names and the times of all."""
    since = unix_seconds(time_) - WORKER_TIMEOUT_SECONDS
    return sum(at >= since for at in scores(heartbeats))
