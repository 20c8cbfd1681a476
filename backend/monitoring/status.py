"""Status: what is accepted and not stored, or not searchable yet, who works on it, and whether the engines
answer.

Totals only: no names, tokens or texts. An engine that is away leaves what it would have told unknown
(None); it never makes the report fail.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import text

from backend.domain.errors import InstaChatError
from backend.domain.events import unpack
from backend.storage.postgres import dead_letters, outbox, reconciliations, search_indices, shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.reconciliations import LastReconciliation
from backend.storage.redis.errors import CommandRefused, RedisError
from backend.storage.redis.log import Log
from backend.storage.search_index import SearchIndex

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine's health. `version` is None, and `problem` says why, while it does not answer."""

    engine: str
    version: str | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything at one moment; None is unknown."""

    engines: list[EngineStatus]
    schema: str | None
    workers: int | None  # running
    queue: int | None  # jobs that wait
    paused: bool | None  # whether workers are told to rest
    waiting: int | None  # log entries accepted and not stored
    oldest_seconds: float | None  # how long the oldest of them has been waiting
    unpublished: int | None  # messages stored and not given to Elasticsearch
    unpublished_seconds: float | None  # how long the oldest of them has been waiting
    search_index: str | None  # what searches read; None also where PostgreSQL searches
    dead_letters: dict[str, int] | None  # by kind
    dirty_counters: int | None  # parents whose count in SQL is behind
    reconciled: LastReconciliation | None  # None also if the stores were never compared
    sync_lag_seconds: float | None  # how long SQL has not known the oldest of these changes
    totals: "Totals"


@dataclass(frozen=True, slots=True)
class Totals:
    """How much was done in all until a moment (`at`, of a clock that only goes on); None is unknown.

    Chats and messages alike. Searchable is what is stored but for what waits for Elasticsearch.
    """

    at: float
    accepted: int | None
    stored: int | None
    searchable: int | None


@dataclass(frozen=True, slots=True)
class Rates:
    """How much was done a second between two totals; None is unknown."""

    accepted: float | None
    stored: float | None
    searchable: float | None


def compute_rates(before: Totals, after: Totals) -> Rates:
    """What was done from one to the other; a total that has gone back, as after a loss, tells nothing."""

    def rate(old: int | None, new: int | None) -> float | None:
        if old is None or new is None or new < old or after.at <= before.at:
            return None
        return (new - old) / (after.at - before.at)

    return Rates(
        rate(before.accepted, after.accepted),
        rate(before.stored, after.stored),
        rate(before.searchable, after.searchable),
    )


def read_totals(database: Database, log: Log, index: SearchIndex | None = None) -> Totals:
    """Ask for the totals alone; an engine that is away leaves its own unknown."""
    at = time.monotonic()
    shards = _value_or_none(lambda: database.installation.shards)
    stored = _value_or_none(lambda: _count_stored(database))
    lag = _value_or_none(lambda: publish_lag(database)) if index and stored is not None else None
    waiting = lag.messages if lag else (None if index else 0)
    return Totals(
        at,
        _value_or_none(lambda: log.total_issued(shards)) if shards else None,
        stored,
        None if stored is None or waiting is None else stored - waiting,
    )


def read_status(
    database: Database,
    log: Log,
    queue_length: Callable[[], int],
    index: SearchIndex | None = None,
    sync_lag: Callable[[], float] | None = None,
) -> Status:
    """Ask the engines; takes a few milliseconds when they answer."""
    postgres = postgres_health(database)
    redis_state = redis_health(log)
    shards = _value_or_none(lambda: database.installation.shards) if not postgres.problem else None
    lengths = (
        _value_or_none(lambda: log.lengths(shards)) if shards and not redis_state.problem else None
    )
    lag = _value_or_none(lambda: publish_lag(database)) if shards else None
    live = _value_or_none(lambda: _live_index(database)) if shards and index else None
    up = not redis_state.problem
    return Status(
        engines=[postgres, redis_state, *([elasticsearch_health(index)] if index else [])],
        schema=_value_or_none(database.schema) if not postgres.problem else None,
        workers=_value_or_none(log.count_workers) if up else None,
        queue=_value_or_none(queue_length) if up else None,
        paused=_value_or_none(log.paused) if up else None,
        waiting=None if lengths is None else sum(lengths),
        oldest_seconds=None
        if lengths is None
        else _value_or_none(lambda: _oldest_entry_age(log, lengths)),
        unpublished=lag and lag.messages,
        unpublished_seconds=lag and lag.seconds,
        search_index=live and live.name,
        dead_letters=_value_or_none(lambda: _count_dead_letters(database)) if shards else None,
        dirty_counters=_value_or_none(lambda: sum(log.count_dirty(shards)))
        if shards and up
        else None,
        reconciled=_value_or_none(lambda: _last_reconciliation(database)) if shards else None,
        sync_lag_seconds=_value_or_none(sync_lag) if sync_lag and shards and up else None,
        totals=read_totals(database, log, index),
    )


def redis_health(log: Log) -> EngineStatus:
    """Redis's or Valkey's health."""
    try:
        log.ping()
        info = log.server_info("server")[0]
    except CommandRefused:
        return EngineStatus("Redis", "unknown: INFO is refused")
    except InstaChatError as error:
        return EngineStatus("Redis", None, error.message)
    name = "Valkey" if "valkey_version" in info else "Redis"
    return EngineStatus(name, str(info.get("valkey_version", info.get("redis_version"))))


def elasticsearch_health(index: SearchIndex) -> EngineStatus:
    """Elasticsearch's health."""
    try:
        return EngineStatus("Elasticsearch", index.version() or "unknown")
    except InstaChatError as error:
        return EngineStatus("Elasticsearch", None, error.message)


def postgres_health(database: Database) -> EngineStatus:
    """PostgreSQL's health."""
    try:
        with database.connect() as connection:
            version = connection.scalar(text("SHOW server_version"))
    except InstaChatError as error:
        return EngineStatus("PostgreSQL", None, error.message)
    return EngineStatus("PostgreSQL", str(version).partition(" ")[0])


def _count_stored(database: Database) -> int:
    with database.connect() as connection:
        return shards.count_stored(connection)


def publish_lag(database: Database) -> outbox.Lag:
    """How many stored messages are not searchable yet, and for how long."""
    with database.connect() as connection:
        return outbox.lag(connection)


def _live_index(database: Database) -> search_indices.RegisteredIndex | None:
    with database.connect() as connection:
        return search_indices.live_index(connection)


def _count_dead_letters(database: Database) -> dict[str, int]:
    with database.connect() as connection:
        return dead_letters.count_dead_letters(connection)


def _oldest_entry_age(log: Log, lengths: list[int]) -> float | None:
    """How long the oldest entry of the log has been there, by this machine's clock."""
    oldest: float | None = None
    for shard, length in enumerate(lengths):
        event = log.oldest_event(shard) if length else None
        if event is not None:
            with suppress(ValueError):  # not an event: the drain makes it a dead letter
                at = unpack(event).at.timestamp()
                oldest = at if oldest is None else min(oldest, at)
    return None if oldest is None else max(time.time() - oldest, 0.0)


def _last_reconciliation(database: Database) -> LastReconciliation | None:
    with database.connect() as connection:
        return reconciliations.last(connection)


def _value_or_none(ask: Callable[[], T]) -> T | None:
    """The answer; None where there is none to be had."""
    try:
        return ask()
    except (InstaChatError, RedisError):
        return None
