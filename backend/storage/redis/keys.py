"""The names of Redis's keys, and how parents are named in the dirty set."""

import re
from functools import lru_cache

from redis.crc import key_slot

from backend.domain.model import Parent
from backend.storage.redis.errors import foreign_data_error

WORKERS_KEY = "instachat:workers"
PAUSED_KEY = "instachat:paused"
_COUNTER_KEY = re.compile(
    rb"instachat:\{[0-9]+\}:(?:app:([A-Za-z0-9_-]{1,64})|chat:([A-Za-z0-9_-]{1,64}):([1-9][0-9]{0,15}))"
)
_MEMBER_NAME = re.compile("[A-Za-z0-9_-]{1,64}(:[1-9][0-9]{0,15})?")


def shard_key(shard: int, name: str) -> str:
    """The full name of a shard's key."""
    return f"instachat:{{{shard}}}:{name}"


@lru_cache(maxsize=1024)
def shard_slot(shard: int) -> int:
    """The slot of a cluster that a shard's keys are in."""
    return int(key_slot(shard_key(shard, "").encode()))


def counter_key(shard: int, parent: Parent) -> str:
    """The key of a parent's counter."""
    token, chat = parent
    return shard_key(shard, f"app:{token}" if chat is None else f"chat:{token}:{chat}")


def counter_pattern(shard: int | None, token: str) -> str:
    """A SCAN pattern that matches the keys of counters, and few others."""
    return f"instachat:{{{'*' if shard is None else shard}}}:[ac][ph][pa]*:{token}*"


def parse_counter_key(key: bytes) -> Parent | None:
    """The parent whose counter has this key; None if it is not a counter's key."""
    found = _COUNTER_KEY.fullmatch(key)
    if found is None:
        return None
    of_application, of_chat, number = found.groups()
    return Parent((of_application or of_chat).decode(), int(number) if number else None)


def member_name(parent: Parent) -> str:
    """The name of a parent in the dirty set."""
    token, chat = parent
    return token if chat is None else f"{token}:{chat}"


def parse_member_name(name: str, shard: int) -> Parent:
    """The parent that has this name in the dirty set. Raises Failed for any other value."""
    if not _MEMBER_NAME.fullmatch(name):
        raise foreign_data_error("dirty counters", shard)
    token, _, chat = name.partition(":")
    return Parent(token, int(chat) if chat else None)
