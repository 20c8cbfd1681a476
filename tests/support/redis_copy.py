"""Copies of all that a Redis holds, as a backup or a former primary has them."""

from collections.abc import Mapping
from typing import Any

import redis

RedisCopy = Mapping[Any, bytes | None]
"""The dump of each key."""


def copy_redis(client: object) -> RedisCopy:
    """All data of a single Redis whose client does not decode replies."""
    assert isinstance(client, redis.Redis)
    return {key: client.dump(key) for key in client.scan_iter()}


def bring_back(client: object, copy: RedisCopy) -> None:
    """Replace all data of a running Redis by a copy."""
    assert isinstance(client, redis.Redis)
    pipe = client.pipeline(transaction=False)
    pipe.flushall()
    for key, value in copy.items():
        assert value
        pipe.restore(key, 0, value)
    pipe.execute()
