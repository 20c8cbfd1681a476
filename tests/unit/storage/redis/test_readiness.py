"""When Redis is short of memory, creations are refused, with a limit of its own or without one."""

from contextlib import closing

import pytest

from backend.domain.errors import LogFull
from backend.storage.redis.log import Log

SYSTEM = {"total_system_memory": 1000}


@pytest.mark.parametrize(
    ("info", "refused"),
    [
        ({"maxmemory": 100, **SYSTEM}, "86% of its memory limit"),
        ({"maxmemory": 102, **SYSTEM}, None),
        ({"maxmemory": 0, "total_system_memory": 100}, "86% of its machine's memory"),
        ({"maxmemory": 0, **SYSTEM}, None),
        ({}, None),  # a managed Redis may tell neither
    ],
)
def test_a_redis_that_is_short_of_memory_refuses(info: dict[str, int], refused: str | None) -> None:
    """The log, counters, idempotency keys and the job queue are all in what it uses."""
    with closing(Log("redis://127.0.0.1:1")) as log:
        log.record_info({"used_memory": 86, "redis_version": "8.0.0", **info})
        if refused is None:
            log.raise_unless_ready()
            return
        with pytest.raises(LogFull, match=refused):
            log.raise_unless_ready()
