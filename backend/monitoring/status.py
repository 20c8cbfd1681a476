"""Reads the state of an installation: backlogs, workers, the job queue, dead letters, the engines' health.

The report has totals only, no names, tokens or texts. The values of an engine that does not answer are
unknown (None); the report never fails.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from backend.domain.errors import InstaChatError, NodeDown, WrongRedis
from backend.domain.events import ChatsCreated, MessagesCreated, unpack
from backend.domain.model import EntryId
from backend.monitoring.reshard_checks import ReshardStatus, read_reshard
from backend.storage.postgres import (
    dead_letters,
    outbox,
    rate_limits,
    reconciliations,
    search_indices,
)
from backend.storage.postgres import shards as shard_states
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.reconciliations import LastReconciliation
from backend.storage.postgres.schema import Schema
from backend.storage.postgres.server import server_version
from backend.storage.postgres.shards import Rewind
from backend.storage.redis.errors import CommandRefused, RedisError
from backend.storage.redis.log import Log
from backend.storage.redis.types import StaleEpoch
from backend.storage.redis.workers import Workers
from backend.storage.search_index import SearchIndex

T = TypeVar("T")
SAMPLE_ENTRIES, SAMPLE_BYTES = 1_000, 1 << 20  # of a shard's backlog, to count the messages in it
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
    """The state at one moment; None is unknown.

    The values of Redis leave out the shards whose node of a cluster does not answer: see `shards_away` of its
    EngineStatus.
    """

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
    wrong_redis: WrongRedis | None = None  # why Redis is refused; None also if that is not known
    reshard: ReshardStatus | None = None  # that has not ended; None also if there is none
    redis_nodes: "RedisNodesStatus | None" = None
    rate_limits: int | None = None  # applications with one
    unstored: "Unstored | None" = (
        None  # what the `waiting` entries create; None also if not asked for
    )


@dataclass(frozen=True, slots=True)
class Unstored:
    """The chats and messages in the entries that are not stored yet; estimated if they are many."""

    messages: int
    chats: int
    exact: bool


@dataclass(frozen=True, slots=True)
class RedisNodesStatus:
    """The nodes of Redis: a single server, or all of a cluster."""

    nodes: int
    away: int
    """Nodes that do not answer."""
    behind: int
    """Replicas that do not follow their primaries."""
    memory_share: float | None
    """Which part of its memory limit, or else of its machine's memory, the fullest node uses."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since the installation began, at the monotonic time `at`; None is unknown.

    They count chats and messages. Searchable are the stored ones but for those that wait to be published.
    `accepted` leaves out the shards that are `away`, because their node of a cluster does not answer.
    """

    at: float
    accepted: int | None
    stored: int | None
    searchable: int | None
    away: Collection[int] = ()


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
    unstored: Unstored | None


def compute_rates(before: Totals, after: Totals) -> Rates:
    """The rates between two totals; unknown for a total that decreased, as after a loss of Redis.

    Unknown, too, if the two count different shards.
    """

    def rate(old: int | None, new: int | None) -> float | None:
        if old is None or new is None or new < old or after.at <= before.at:
            return None
        return (new - old) / (after.at - before.at)

    return Rates(
        rate(before.accepted, after.accepted) if set(before.away) == set(after.away) else None,
        rate(before.stored, after.stored),
        rate(before.searchable, after.searchable),
    )


def read_totals(database: Database, log: Log, index: SearchIndex | None = None) -> Totals:
    """Read the totals only; those of an engine that does not answer are unknown."""
    at = time.monotonic()
    shards = _value_or_none(lambda: database.refresh_installation().all_shards)
    stored = _value_or_none(lambda: _query(database, shard_states.count_stored))
    lag = (
        _value_or_none(lambda: _query(database, outbox.lag))
        if index and stored is not None
        else None
    )
    waiting = lag.messages if lag else (None if index else 0)
    issued = (_value_or_none(lambda: log.try_issued(shards)) if shards else None) or {}
    return Totals(
        at,
        _sum_of_answers(issued.values()),
        stored,
        None if stored is None or waiting is None else stored - waiting,
        away=[shard for shard, number in issued.items() if isinstance(number, NodeDown)],
    )


def read_status(
    database: Database,
    log: Log,
    workers: Workers,
    queue_length: Callable[[], int],
    index: SearchIndex | None = None,
    sync_lag: Callable[[], float] | None = None,
    find_refusal: Callable[[], WrongRedis | None] | None = None,
    *,
    count_unstored: bool = False,
) -> Status:
    """Read the whole state; takes a few milliseconds while all engines answer.

    `count_unstored` also reads the beginning of each shard's backlog, at most 1 MiB of it. `find_refusal`
    says why Redis is refused; what such a Redis has is not of this installation, so it is unknown here.
    """
    postgres = postgres_health(database)
    shards = (
        _value_or_none(lambda: database.refresh_installation().all_shards)
        if not postgres.problem
        else None
    )
    redis_state = redis_health(log, shards or ())
    up = not redis_state.problem
    wrong_redis = _value_or_none(find_refusal) if find_refusal and shards and up else None
    is_usable = up and wrong_redis is None
    totals = read_totals(database, log, index)
    backlog = (
        _value_or_none(lambda: _read_backlog(database, log, shards, count=count_unstored))
        if shards and is_usable
        else None
    )
    lag = _value_or_none(lambda: _query(database, outbox.lag)) if shards else None
    live = (
        _value_or_none(lambda: _query(database, search_indices.live_index))
        if shards and index
        else None
    )
    return Status(
        engines=[postgres, redis_state, *([elasticsearch_health(index)] if index else [])],
        schema=_value_or_none(database.schema) if not postgres.problem else None,
        workers=_value_or_none(workers.count) if up else None,
        queue=_value_or_none(queue_length) if up else None,
        paused=_value_or_none(workers.paused) if up else None,
        waiting=backlog and backlog.entries,
        oldest_seconds=backlog and backlog.seconds,
        unstored=backlog and backlog.unstored,
        unpublished=lag and lag.messages,
        unpublished_seconds=lag and lag.seconds,
        search_index=live and live.name,
        dead_letters=_value_or_none(lambda: _query(database, dead_letters.count_dead_letters))
        if shards
        else None,
        dirty_counters=_value_or_none(lambda: _sum_of_answers(log.try_count_dirty(shards).values()))
        if shards and is_usable
        else None,
        reconciled=_value_or_none(lambda: _query(database, reconciliations.last))
        if shards
        else None,
        rewound=_value_or_none(lambda: _query(database, shard_states.last_rewind))
        if shards
        else None,
        reshard=_value_or_none(lambda: _query(database, read_reshard)) if shards else None,
        sync_lag_seconds=_value_or_none(sync_lag) if sync_lag and shards and is_usable else None,
        totals=replace(totals, accepted=None) if wrong_redis else totals,
        wrong_redis=wrong_redis,
        redis_nodes=_value_or_none(lambda: redis_nodes(log)) if up else None,
        rate_limits=_value_or_none(lambda: _query(database, rate_limits.count_rate_limits))
        if shards
        else None,
    )


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


def _read_backlog(database: Database, log: Log, shards: Sequence[int], *, count: bool) -> _Backlog:
    """What SQL's cursors have not passed: also what was stored, if SQL has gone back since.

    Leaves out the shards whose node of a cluster does not answer.
    """
    ends = log.try_ends(shards)  # before the cursors, which may pass them
    states = _query(database, shard_states.shard_states)
    entries = 0
    oldest: float | None = None
    messages, chats, exact = 0, 0, True
    for shard, end in ends.items():
        if isinstance(end, NodeDown):
            continue
        after, waiting = states[shard].cursor, end.waiting
        if after.epoch == end.entry.epoch:
            waiting = max(end.entry.sequence - after.sequence, 0)
        else:
            after = end.stored
        entries += waiting
        if count and waiting:
            sample = _sample(database, log, shard, states[shard].epoch, after)
            messages += round(sample.messages * waiting / max(sample.entries, 1))
            chats += round(sample.chats * waiting / max(sample.entries, 1))
            exact &= sample.entries == waiting
        event = None
        with suppress(NodeDown):
            event = log.event_after(shard, after) if waiting else None
        if event is not None:
            with suppress(ValueError):  # not an event: the drain moves it to a dead letter
                at = unpack(event).at.timestamp()
                oldest = at if oldest is None else min(oldest, at)
    return _Backlog(
        entries,
        None if oldest is None else max(log.read_clock() - oldest, 0.0),
        Unstored(messages, chats, exact) if count else None,
    )


class _Sample(NamedTuple):
    """The messages and chats in so many entries."""

    entries: int
    messages: int
    chats: int


def _sample(database: Database, log: Log, shard: int, epoch: int, after: EntryId) -> _Sample:
    """What the first entries of a shard's backlog create."""
    try:
        page = log.read(
            shard,
            epoch,
            database.installation.id,
            after,
            max_entries=SAMPLE_ENTRIES,
            max_bytes=SAMPLE_BYTES,
        )
    except (InstaChatError, RedisError, StaleEpoch):
        return _Sample(0, 0, 0)
    messages = chats = 0
    for _, packed in page.entries:
        with suppress(ValueError):  # not an event: the drain moves it to a dead letter
            match unpack(packed):
                case MessagesCreated() as event:
                    messages += len(event.messages)
                case ChatsCreated() as event:
                    chats += event.last - event.first + 1
    return _Sample(len(page.entries), messages, chats)


def _sum_of_answers(counts: Iterable[int | NodeDown]) -> int | None:
    """The sum of what the shards have answered; None if none has."""
    answers = [count for count in counts if not isinstance(count, NodeDown)]
    return sum(answers) if answers else None


def _value_or_none(ask: Callable[[], T]) -> T | None:
    """The answer; None if it raises an error."""
    try:
        return ask()
    except (InstaChatError, RedisError):
        return None
