"""Rate limits over a moving window, counted in Redis for all processes together."""

import math

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.domain.errors import EngineDown
from backend.storage.redis.script_loader import SCRIPTS

KEY_PREFIX = "instachat:rate:"
REDIS_TIMEOUT_SECONDS = 0.9
_WINDOW_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


class RateLimiter:
    """So many hits of each name within a time, as in `20/minute`. Thread-safe."""

    def __init__(self, url: str, rate: str) -> None:
        """`url` is of a plain Redis. The rate is as the setting INSTACHAT_APP_CREATION_LIMIT has it."""
        hits, _, unit = rate.partition("/")
        self._hits, self._window_us = int(hits), _WINDOW_SECONDS[unit] * 1_000_000
        client = redis.Redis.from_url(
            url,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._count = client.register_script(SCRIPTS["count_hit"])

    def hit(self, name: str) -> int | None:
        """Count one hit; None if the rate allows it, otherwise after how many whole seconds it would.

        Raises EngineDown if Redis does not respond.
        """
        try:
            wait_us = int(self._count([KEY_PREFIX + name], [self._hits, self._window_us]))
        except redis.RedisError as error:
            raise EngineDown("Redis does not answer") from error
        return math.ceil(wait_us / 1_000_000) if wait_us else None
