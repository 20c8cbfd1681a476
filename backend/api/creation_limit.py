"""How many applications one client address may create."""

from backend.api import problems
from backend.api.client_address import limited_name
from backend.api.problems import ProblemException
from backend.storage.redis.rate_limit import RateLimiter


class CreationLimit:
    """A limit such as `20/minute`, or `off`, over all processes together. Thread-safe."""

    def __init__(self, redis_url: str, limit: str) -> None:
        self._limiter = None if limit == "off" else RateLimiter(redis_url, limit)

    def count(self, address: str) -> None:
        """Count one creation. Raises ProblemException beyond the limit, EngineDown if Redis is away.

        IPv6 addresses of one /64 network count as one.
        """
        if self._limiter is None:
            return
        wait_seconds = self._limiter.hit(limited_name(address))
        if wait_seconds is not None:
            raise ProblemException(
                problems.TOO_MANY_CREATIONS, **{"Retry-After": str(wait_seconds)}
            )
