"""Reads and plants epochs and counters, in the forms that the scripts give them (see scripts/shared.lua)."""

from typing import Any

from backend.bootstrap import Backend
from backend.domain.model import Parent
from backend.storage.redis.client import raise_first_error
from backend.storage.redis.log import Log

_COUNTER = ("epoch", "issued", "closed", "synced")
_EPOCH = (
    "epoch",
    "sequence",
    "stored",
    "issued",
    "notified",
    "server",
    "installation",
    "stored_epoch",
    "trimmed_epoch",
    "trimmed",
    "trimmed_total",
)


def counter_fields(log: Log, shard: int, parent: Parent) -> dict[str, str]:
    """The parts of a counter; empty if there is none."""
    return _fields(log, log.counter_key(shard, parent), _COUNTER)


def count_dirty(backend: Backend) -> int:
    """How many counts SQL does not know, in all shards."""
    counts = backend.log.try_count_dirty(backend.database.installation.shards).values()
    return sum(raise_first_error(counts))


def plant_counter(log: Log, shard: int, parent: Parent, **fields: object) -> None:
    """Replace parts of a counter; a new one is open, clean, and has issued nothing in epoch 0."""
    before = counter_fields(log, shard, parent) or dict(zip(_COUNTER, "00-", strict=False))
    _plant(log, log.counter_key(shard, parent), {"synced": "clean"} | before, fields, _COUNTER)


def epoch_fields(log: Log, shard: int) -> dict[str, str]:
    """The parts of a shard's epoch; empty if there is none."""
    return _fields(log, log.key(shard, "epoch"), _EPOCH)


def plant_epoch(log: Log, shard: int, **fields: object) -> None:
    """Replace parts of a shard's epoch."""
    _plant(log, log.key(shard, "epoch"), epoch_fields(log, shard), fields, _EPOCH)


def _fields(log: Log, key: str, names: tuple[str, ...]) -> dict[str, str]:
    value: Any = log.redis.get(key)
    return {} if value is None else dict(zip(names, value.decode().split(" "), strict=True))


def _plant(
    log: Log, key: str, before: dict[str, str], fields: dict[str, object], names: tuple[str, ...]
) -> None:
    assert fields.keys() <= set(names)
    after = before | {name: str(value) for name, value in fields.items()}
    log.redis.set(key, " ".join(after[name] for name in names))


def as_hashes(log: Log, shards: range) -> None:
    """Give the epochs and counters of these shards the form that they had before they were strings."""
    for shard in shards:
        if epoch := epoch_fields(log, shard):
            hashed = {"issued_total": epoch.pop("issued"), **epoch}
            del hashed["notified"]
            _replace(log, log.key(shard, "epoch"), hashed)
        for parent in set(log.scan_parents([shard])):
            counter = counter_fields(log, shard, parent)
            if counter.pop("closed") != "-":
                counter["closed"] = counter_fields(log, shard, parent)["closed"]
            del counter["synced"]
            _replace(log, log.counter_key(shard, parent), counter)


def _replace(log: Log, key: str, fields: dict[str, str]) -> None:
    log.redis.delete(key)
    for name, value in fields.items():
        log.redis.hset(key, name, value)
