"""How many applications one address may create, counted in Redis for all processes together."""

import math
import time

import limits
import redis
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.api import problems
from backend.api.problems import ProblemException
from backend.domain.errors import EngineDown

REDIS_TIMEOUT_SECONDS = 0.9  # for Redis to answer


class CreationLimit:
    """A limit such as `20/minute`, or `off`. Thread-safe."""

    def __init__(self, redis_url: str, limit: str) -> None:
        self._limit = None if limit == "off" else limits.parse(limit)
        if self._limit is not None:
            storage = storage_from_string(
                redis_url.replace("unix://", "redis+unix://", 1),  # the library's name for it
                key_prefix="instachat:limits",
                socket_timeout=REDIS_TIMEOUT_SECONDS,
                socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # goes to redis-py as it is
            )
            self._limiter = MovingWindowRateLimiter(storage)

    def count(self, address: str) -> None:
        """Count one more creation; ProblemException if it is one too many. EngineDown if Redis is away."""
        if self._limit is None:
            return
        try:
            if self._limiter.hit(self._limit, address):
                return
            reset = self._limiter.get_window_stats(self._limit, address).reset_time
        except redis.RedisError as error:
            raise EngineDown("Redis does not answer") from error
        seconds = max(1, math.ceil(reset - time.time()))
        raise ProblemException(problems.TOO_MANY_CREATIONS, **{"Retry-After": str(seconds)})
