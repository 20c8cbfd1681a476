"""The moving window of a rate limit."""

import pytest
from redis import Redis

from backend.domain.errors import EngineDown
from backend.storage.redis.rate_limit import KEY_PREFIX, RateLimiter
from tests.support.engines import RedisServer, free_port

AHEAD_SECONDS = 10_000
"""How far in the future a hit is planted, so that it is in the window for as long as the test takes."""


def newest_first(redis: Redis) -> list[int]:
    """The times that are kept of the name `a`."""
    return [int(time) for time in redis.lrange(KEY_PREFIX + "a", 0, -1)]


def test_a_hit_is_allowed_again_once_the_oldest_has_left_the_window(own_redis: RedisServer) -> None:
    """A refused hit does not count, and as many are kept as the rate allows."""
    limiter, redis = RateLimiter(own_redis.url, "3/day"), own_redis.client()
    assert [limiter.hit("a") for _ in range(3)] == [None] * 3
    oldest = newest_first(redis)[-1]
    assert limiter.hit("a") in range(1, 86_401)
    assert newest_first(redis)[-1] == oldest
    redis.lset(KEY_PREFIX + "a", -1, str(oldest - 86_400_000_000))
    assert limiter.hit("a") is None
    assert limiter.hit("a") is not None
    assert redis.llen(KEY_PREFIX + "a") == 3


@pytest.mark.parametrize(
    ("unit", "seconds"), [("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)]
)
def test_each_unit_has_its_window(own_redis: RedisServer, unit: str, seconds: int) -> None:
    redis = own_redis.client()
    now, _ = redis.time()
    redis.lpush(KEY_PREFIX + "a", (now + AHEAD_SECONDS) * 1_000_000)
    wait = RateLimiter(own_redis.url, f"1/{unit}").hit("a")
    assert wait
    passed, _ = redis.time()
    assert AHEAD_SECONDS + seconds - (passed - now) - 1 <= wait <= AHEAD_SECONDS + seconds


def test_names_are_counted_apart_and_forgotten(own_redis: RedisServer) -> None:
    limiter, redis = RateLimiter(own_redis.url, "1/day"), own_redis.client()
    assert limiter.hit("a") is None
    assert limiter.hit("b") is None
    assert limiter.hit("a") is not None
    assert 0 < redis.pttl(KEY_PREFIX + "a") <= 86_400_000


def test_a_redis_that_is_away_is_reported() -> None:
    with pytest.raises(EngineDown):
        RateLimiter(f"redis://127.0.0.1:{free_port()}", "1/minute").hit("a")
