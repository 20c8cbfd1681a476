"""Idempotency keys: the answer to an earlier request with the same key, stored for a day."""

import hashlib
import re
from collections import Counter

from backend.domain.model import Accepted, EntryId
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.errors import foreign_data_error

IDEMPOTENCY_KEY_TTL_SECONDS = 24 * 60 * 60
IDEMPOTENCY_KEY_BYTES = 320
"""How much memory one takes at most, with its name and the time when it expires."""
_ANSWER = re.compile(r"([0-9a-f]+) (\d+) (\d+) (\d+-\d+)")

_KEY = re.compile(rb"instachat:\{(\d+)[.\d]*\}:key:.*")


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

    def find_idempotency_key(self, shard: int, name: str) -> tuple[str, Accepted] | None:
        """The hash of the body that came with an idempotency key of a shard, and the answer; or None.

        Raises Failed for a value of another program.
        """
        key = self.key(shard, f"key:{name}")
        value = self._execute(key, "GET", key)
        if value is None:
            return None
        found = _ANSWER.fullmatch(text(value))
        if found is None:
            raise foreign_data_error("idempotency key", shard)
        body_hash, first, last, entry = found.groups()
        return body_hash, Accepted(int(first), int(last), shard, EntryId.parse(entry))

    def count_all_keys(self) -> list[int]:
        """How many keys of any kind each server has: one, or the primaries of a cluster.

        One of a primary that does not answer counts as 0. Raises EngineDown if a single Redis does not.
        """
        with self.translate_errors():
            answers = self._on_each_server(("DBSIZE",))
        return [answer if isinstance(answer, int) else 0 for answer in answers]

    def sample_idempotency_keys(self, size: int) -> list[Counter[int]]:
        """Of so many random keys of each server, how many are idempotency keys, by shard.

        The servers are in the order of `count_all_keys`, as long as a cluster has the same ones.
        """
        samples: list[Counter[int]] = []
        with self.translate_errors():
            for _ in range(size):
                keys = self._on_each_server(("RANDOMKEY",))
                samples = samples or [Counter() for _ in keys]
                for sample, key in zip(samples, keys, strict=False):
                    if isinstance(key, bytes) and (found := _KEY.fullmatch(key)):
                        sample[int(found[1])] += 1
        return samples


def hash_idempotency_key(route: str, key: str) -> str:
    """The name under which an idempotency key is stored: per route, and of bounded length."""
    return hashlib.sha256(f"{route}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()
