"""Reads the state of an installation: backlogs, workers, the job queue, dead letters, the engines' health.

The report has totals only, no names, tokens or texts. The values of an engine that does not answer are
unknown (None); the report never fails.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from backend.domain.errors import InstaChatError
from backend.domain.events import unpack
from backend.storage.postgres import dead_letters, outbox, reconciliations, search_indices
from backend.storage.postgres import shards as shard_states
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.reconciliations import LastReconciliation
from backend.storage.postgres.schema import Schema
from backend.storage.postgres.server import server_version
from backend.storage.postgres.shards import Rewind
from backend.storage.redis.errors import CommandRefused, RedisError
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers
from backend.storage.search_index import SearchIndex

T = TypeVar("T")
MAX_NAMED_SHARDS = 8
NODE_SECONDS = 2.0  # that the nodes of a cluster have to answer


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine's health: `problem` is the reason why it does not answer, else None.

    An engine that answers and may not be asked for its version has a `version_note` instead.
    """

    engine: str
    version: str | None
    problem: str | None = None
    version_note: str | None = None
    shards_away: Sequence[int] = ()
    """Shards whose node does not answer, if others do."""
    shards: int = 0
    """How many there are; 0 if that is not known."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state at one moment; None is unknown."""

    engines: list[EngineStatus]
    schema: Schema | None
    workers: int | None  # running workers
    queue: int | None  # waiting jobs
    paused: bool | None  # whether workers take no jobs until `instachat queue resume`
    waiting: int | None  # log entries that are not stored yet
    oldest_seconds: float | None  # how long the oldest of them has been waiting
    unpublished: int | None  # stored messages that are not in the index yet
    unpublished_seconds: float | None  # how long the oldest of them has been waiting
    search_index: str | None  # that searches read; None also if PostgreSQL searches
    dead_letters: dict[str, int] | None  # by kind
    dirty_counters: int | None  # parents whose count in SQL is outdated
    reconciled: LastReconciliation | None  # None also if the stores were never compared
    rewound: Rewind | None  # when PostgreSQL last went back in time; None also if it never did
    sync_lag_seconds: float | None  # the age of the oldest change that is not in SQL
    totals: "Totals"
    redis_nodes: "RedisNodesStatus | None" = None


@dataclass(frozen=True, slots=True)
class RedisNodesStatus:
    """The nodes of Redis: a single server, or all of a cluster."""

    nodes: int
    away: int
    """Nodes that do not answer."""
    behind: int
    """Replicas that do not follow their primaries."""
    memory_share: float | None
    """Which part of its memory limit the fullest node uses; None if no node has a limit."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since the installation began, at the monotonic time `at`; None is unknown.

    They count chats and messages. Searchable are the stored ones but for those that wait to be published.
    """

    at: float
    accepted: int | None
    stored: int | None
    searchable: int | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Chats and messages a second between two totals; None is unknown."""

    accepted: float | None
    stored: float | None
    searchable: float | None


class _Backlog(NamedTuple):
    """Entries that are not stored yet, and how long the oldest of them has been waiting."""

    entries: int
    seconds: float | None


def compute_rates(before: Totals, after: Totals) -> Rates:
    """The rates between two totals; unknown for a total that decreased, as after a loss of Redis."""

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
    """Read the totals only; those of an engine that does not answer are unknown."""
    at = time.monotonic()
    shards = _value_or_none(lambda: database.installation.shards)
    stored = _value_or_none(lambda: _query(database, shard_states.count_stored))
    lag = (
        _value_or_none(lambda: _query(database, outbox.lag))
        if index and stored is not None
        else None
    )
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
    workers: Workers,
    queue_length: Callable[[], int],
    index: SearchIndex | None = None,
    sync_lag: Callable[[], float] | None = None,
) -> Status:
    """Read the whole state; takes a few milliseconds while all engines answer."""
    postgres = postgres_health(database)
    shards = _value_or_none(lambda: database.installation.shards) if not postgres.problem else None
    redis_state = redis_health(log, shards or ())
    backlog = (
        _value_or_none(lambda: _read_backlog(database, log, shards))
        if shards and not redis_state.problem
        else None
    )
    lag = _value_or_none(lambda: _query(database, outbox.lag)) if shards else None
    live = (
        _value_or_none(lambda: _query(database, search_indices.live_index))
        if shards and index
        else None
    )
    up = not redis_state.problem
    return Status(
        engines=[postgres, redis_state, *([elasticsearch_health(index)] if index else [])],
        schema=_value_or_none(database.schema) if not postgres.problem else None,
        workers=_value_or_none(workers.count) if up else None,
        queue=_value_or_none(queue_length) if up else None,
        paused=_value_or_none(workers.paused) if up else None,
        waiting=backlog and backlog.entries,
        oldest_seconds=backlog and backlog.seconds,
        unpublished=lag and lag.messages,
        unpublished_seconds=lag and lag.seconds,
        search_index=live and live.name,
        dead_letters=_value_or_none(lambda: _query(database, dead_letters.count_dead_letters))
        if shards
        else None,
        dirty_counters=_value_or_none(lambda: log.count_dirty(shards)) if shards and up else None,
        reconciled=_value_or_none(lambda: _query(database, reconciliations.last))
        if shards
        else None,
        rewound=_value_or_none(lambda: _query(database, shard_states.last_rewind))
        if shards
        else None,
        sync_lag_seconds=_value_or_none(sync_lag) if sync_lag and shards and up else None,
        totals=read_totals(database, log, index),
        redis_nodes=_value_or_none(lambda: redis_nodes(log)) if up else None,
    )


def format_shards(away: Iterable[int], shards: int) -> str:
    """Shards, with the share of the applications that they have, and the numbers of the first ones.

    Tokens are spread over the shards by a hash, so each shard has about as many applications.
    """
    numbers = sorted(away)
    names = ", ".join(map(str, numbers[:MAX_NAMED_SHARDS]))
    if len(numbers) > MAX_NAMED_SHARDS:
        names += ", …"
    share = f"{len(numbers) / shards:.0%}"
    return f"{len(numbers)} of {shards} shards ({names}; about {share} of the applications)"


def is_repaired(rewound: Rewind, reconciled: LastReconciliation | None) -> bool:
    """Whether the stores were compared, and all differences repaired, after PostgreSQL went back in time."""
    return (
        reconciled is not None
        and reconciled.finished_at > rewound.at
        and reconciled.findings == reconciled.repaired
    )


def redis_health(
    log: Log, shards: Sequence[int] = (), seconds: float = NODE_SECONDS
) -> EngineStatus:
    """Redis's or Valkey's health.

    Of a cluster, also which of these shards do not answer in that time.
    """
    away: Sequence[int] = ()
    info: Mapping[str, Any]
    try:
        if log.is_cluster and shards:
            away_by_shard, info = log.shard_health(shards, seconds)
            away = sorted(away_by_shard)
        else:
            log.ping()
            info = log.server_info("server")[0]
    except CommandRefused:
        return EngineStatus("Redis", None, version_note="unknown: INFO is refused")
    except InstaChatError as error:
        return EngineStatus("Redis", None, error.message)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version", info.get("redis_version")))
    return EngineStatus(name, version, shards_away=away, shards=len(shards))


def redis_nodes(log: Log, seconds: float = NODE_SECONDS) -> RedisNodesStatus:
    """The state of all nodes. Raises EngineDown if none answers in that time."""
    reports = log.node_reports(seconds=seconds)
    return RedisNodesStatus(
        nodes=len(reports),
        away=sum(report.problem is not None for report in reports),
        behind=sum(report.is_behind for report in reports),
        memory_share=max(
            (report.memory_share for report in reports if report.memory_share is not None),
            default=None,
        ),
    )


def elasticsearch_health(index: SearchIndex) -> EngineStatus:
    """Elasticsearch's health."""
    try:
        version = index.version()
    except InstaChatError as error:
        return EngineStatus("Elasticsearch", None, error.message)
    return EngineStatus("Elasticsearch", version, version_note=None if version else "unknown")


def postgres_health(database: Database) -> EngineStatus:
    """PostgreSQL's health."""
    try:
        version = _query(database, server_version)
    except InstaChatError as error:
        return EngineStatus("PostgreSQL", None, error.message)
    return EngineStatus("PostgreSQL", version.text.partition(" ")[0])


def _query(database: Database, query: Callable[[Connection], T]) -> T:
    with database.connect() as connection:
        return query(connection)


def _read_backlog(database: Database, log: Log, shards: Sequence[int]) -> _Backlog:
    """What SQL's cursors have not passed: also what was stored, if SQL has gone back since."""
    ends = log.ends(shards)  # before the cursors, which may pass them
    states = _query(database, shard_states.shard_states)
    entries = 0
    oldest: float | None = None
    for shard, end in ends.items():
        after, waiting = states[shard].cursor, end.waiting
        if after.epoch == end.entry.epoch:
            waiting = max(end.entry.sequence - after.sequence, 0)
        else:
            after = end.stored
        entries += waiting
        event = log.event_after(shard, after) if waiting else None
        if event is not None:
            with suppress(ValueError):  # not an event: the drain moves it to a dead letter
                at = unpack(event).at.timestamp()
                oldest = at if oldest is None else min(oldest, at)
    return _Backlog(entries, None if oldest is None else max(time.time() - oldest, 0.0))


def _value_or_none(ask: Callable[[], T]) -> T | None:
    """The answer; None if it raises an error."""
    try:
        return ask()
    except (InstaChatError, RedisError):
        return None
