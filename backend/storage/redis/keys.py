"""The names of Redis's keys, and how parents are named in the dirty set."""

import re
from binascii import crc_hqx
from collections.abc import Mapping
from functools import cache, lru_cache

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from backend.domain.model import Parent
from backend.storage.redis.errors import foreign_data_error

WORKERS_KEY = "instachat:workers"
PAUSED_KEY = "instachat:paused"
FIRST_SPREAD_SHARD = 16
# Each is the lowest with which the tag has its place in the van der Corput sequence of slots (halves,
# quarters, eighths …), in the middle of 256. To search for them takes a second.
_SUFFIXES = (
    2896, 7239, 10898, 11337, 6848, 6595, 36899, 23405, 18159, 1067, 1623, 43771, 15688, 9045, 24109, 41909,
    63877, 81, 5232, 23875, 25719, 103519, 8562, 7128, 41423, 5473, 5237, 38289, 9953, 18934, 701, 6680,
    3197, 12171, 5050, 10633, 69454, 12582, 52580, 3395, 8413, 7059, 709, 19139, 46792, 3087, 9826, 68254,
    9337, 19415, 6139, 9573, 1315, 22475, 21898, 8698, 11000, 9226, 5052, 774, 28265, 47480, 8702, 7348,
)  # fmt: skip
_SPREAD_TAGS = tuple(
    f"{shard}.{suffix}" for shard, suffix in enumerate(_SUFFIXES, FIRST_SPREAD_SHARD)
)
_SLOT_BITS = 14
_FIRST_SLOT = 128  # that of shard 16
_SUFFIX_DIGITS = 6
_COUNTER_KEY = re.compile(
    rb"instachat:\{[0-9.]+\}:(?:app:([A-Za-z0-9_-]{1,64})|chat:([A-Za-z0-9_-]{1,64}):([1-9][0-9]{0,15}))"
)
_MEMBER_NAME = re.compile("[A-Za-z0-9_-]{1,64}(:[1-9][0-9]{0,15})?")


def shard_key(shard: int, name: str) -> str:
    """The full name of a shard's key."""
    return f"instachat:{{{hash_tag(shard)}}}:{name}"


def hash_tag(shard: int) -> str:
    """The hash tag of a shard's keys, which decides their slot in a Redis Cluster.

    The slots of shards 16 to 79 are spread evenly, so masters with equal ranges of slots have equally many of
    these shards, or one more; so have the first shards from 16 on, however many. Later shards divide the
    distances between these. Earlier installations have shards 0 to 15, whose tag is their number.
    """
    if shard < FIRST_SPREAD_SHARD:
        return f"{shard}"
    index = shard - FIRST_SPREAD_SHARD
    return _SPREAD_TAGS[index] if index < len(_SPREAD_TAGS) else _compute_tag(shard)


@cache
def _compute_tag(shard: int) -> str:
    """A tag with the shard's place in the van der Corput sequence of slots.

    The checksum is linear: that of a prefix and a suffix is that of the prefix followed by zero bytes, xor
    that of the suffix.
    """
    index = shard - FIRST_SPREAD_SHARD
    reversed_bits = int(format(index, f"0{_SLOT_BITS}b")[::-1], 2)
    slot = (reversed_bits + _FIRST_SLOT) % REDIS_CLUSTER_HASH_SLOTS
    prefix = f"{shard}."
    of_prefix = crc_hqx(prefix.encode() + bytes(_SUFFIX_DIGITS), 0) % REDIS_CLUSTER_HASH_SLOTS
    return prefix + _suffixes()[of_prefix ^ slot]


@cache
def _suffixes() -> Mapping[int, str]:
    """A suffix for each value that the checksum of a suffix can have; to find them takes 50 ms."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < REDIS_CLUSTER_HASH_SLOTS:
        suffix = f"{number:0{_SUFFIX_DIGITS}}"
        found.setdefault(crc_hqx(suffix.encode(), 0) % REDIS_CLUSTER_HASH_SLOTS, suffix)
        number += 1
    return found


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
    return f"instachat:{{{'*' if shard is None else hash_tag(shard)}}}:[ac][ph][pa]*:{token}*"


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
