"""Idempotency keys: the answer to an earlier request with the same key, stored for a day."""

import hashlib

from backend.storage.redis.client import RedisClient, text

IDEMPOTENCY_KEY_TTL_SECONDS = 24 * 60 * 60


class IdempotencyKeyCalls(RedisClient):
    """Idempotency keys of requests that the accept script does not handle."""

    def reserve_idempotency_key(self, shard: int, name: str, value: str) -> str:
        """Store a value under an idempotency key unless one is there; returns what is there then."""
        key = self.key(shard, f"key:{name}")
        while not self._execute(key, "SET", key, value, "NX", "EX", IDEMPOTENCY_KEY_TTL_SECONDS):
            found = self._execute(key, "GET", key)
            if found is not None:  # it may have expired since
                return text(found)
        return value


def hash_idempotency_key(route: str, key: str) -> str:
    """The name under which an idempotency key is stored: per route, and of bounded length."""
    return hashlib.sha256(f"{route}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()
