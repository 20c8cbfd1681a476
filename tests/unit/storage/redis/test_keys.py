"""The names of keys, and how their slots are spread over the masters of a Redis Cluster."""

from fnmatch import fnmatchcase

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from backend.domain.model import Parent
from backend.storage.redis.keys import (
    FIRST_SPREAD_SHARD,
    counter_key,
    counter_pattern,
    parse_counter_key,
    shard_key,
)

SPREAD = range(FIRST_SPREAD_SHARD, FIRST_SPREAD_SHARD + 64)


@pytest.mark.parametrize("masters", range(1, 65))
def test_masters_have_as_even_a_share_of_the_shards_as_can_be(masters: int) -> None:
    """For each number of masters with equal ranges of slots."""
    shares = [0] * masters
    for shard in SPREAD:
        shares[_slot(shard) * masters // REDIS_CLUSTER_HASH_SLOTS] += 1
    assert max(shares) - min(shares) <= 1


def test_the_first_shards_are_spread_too() -> None:
    """The first 2, 4, 8 … shards, also more than 64: equally many on equally many masters."""
    for count in (2, 4, 8, 16, 32, 64, 128):
        shards = range(FIRST_SPREAD_SHARD, FIRST_SPREAD_SHARD + count)
        masters = {_slot(shard) * count // REDIS_CLUSTER_HASH_SLOTS for shard in shards}
        assert len(masters) == count


@pytest.mark.parametrize("masters", [3, 7, 16, 61])
def test_more_than_64_shards_are_spread_evenly(masters: int) -> None:
    """A thousand of them: the largest and the smallest share differ by a few."""
    shares = [0] * masters
    for shard in range(FIRST_SPREAD_SHARD, FIRST_SPREAD_SHARD + 1_024):
        shares[_slot(shard) * masters // REDIS_CLUSTER_HASH_SLOTS] += 1
    assert max(shares) - min(shares) <= 2


@pytest.mark.parametrize("shard", [0, 15, 16, 79, 80, 2_048, 32_767])
@pytest.mark.parametrize("chat", [None, 7])
def test_a_counter_key_names_its_parent(shard: int, chat: int | None) -> None:
    """In shards of both forms; a scan of its shard, and one of all shards, finds it."""
    parent = Parent("a-token_1", chat)
    key = counter_key(shard, parent)
    assert parse_counter_key(key.encode()) == parent
    for place in (shard, None):
        assert fnmatchcase(key, counter_pattern(place, parent.token))


def _slot(shard: int) -> int:
    return int(key_slot(shard_key(shard, "log").encode()))
