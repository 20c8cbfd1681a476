"""Rate limits over a moving window, counted in Redis for all processes together."""

import math
import time

import limits
import redis
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.domain.errors import EngineDown

KEY_PREFIX = "instachat:limits"
REDIS_TIMEOUT_SECONDS = 0.9


class RateLimiter:
    """So many hits of each name within a time, as in `20/minute`. Thread-safe."""

    def __init__(self, url: str, rate: str) -> None:
        self._rate = limits.parse(rate)
        storage = storage_from_string(
            url.replace("unix://", "redis+unix://", 1),  # the library's name for it
            key_prefix=KEY_PREFIX,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # the library passes it to redis-py
        )
        self._limiter = MovingWindowRateLimiter(storage)

    def hit(self, name: str) -> int | None:
        """Count one hit; None if the rate allows it, otherwise after how many whole seconds it would.

        Raises EngineDown if Redis does not respond.
        """
        try:
            if self._limiter.hit(self._rate, name):
                return None
            reset_at = self._limiter.get_window_stats(self._rate, name).reset_time
        except redis.RedisError as error:
            raise EngineDown("Redis does not answer") from error
        return max(1, math.ceil(reset_at - time.time()))
