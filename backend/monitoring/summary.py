"""Judges the figures of an installation: is each of them well, and if not, what should the operator do?

The status page and `instachat status` say the same. The figures are totals: they contain no names, tokens
or texts, and no engine's address.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from backend.domain.errors import UnknownRedis, WrongRedis
from backend.domain.plurals import counted
from backend.domain.shards_away import format_shards
from backend.monitoring.health import EngineHealth, HealthSnapshot
from backend.monitoring.reshard_checks import ReshardStatus
from backend.monitoring.status import RedisNodesStatus, Status, is_repaired
from backend.storage.postgres.reconciliations import LastReconciliation
from backend.storage.postgres.schema import SCHEMA, Schema
from backend.storage.redis.readiness import MAX_MEMORY_SHARE

MAX_LAG_SECONDS = 10.0  # workers that keep up store and publish within one second
MAX_SYNC_LAG_SECONDS = 2 * 3600.0  # the counter sync runs once an hour


class HealthState(StrEnum):
    """The state of a figure, from best to worst."""

    OK = "well"
    UNKNOWN = "unknown"
    WARNING = "needs attention"
    CRITICAL = "not well"


STATES_BY_SEVERITY = list(HealthState)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the page. `advice` says what to do if the figure is not well.

    With a `headline`, it is the cause of others that are not well or unknown: the summary is that sentence.
    """

    name: str
    value: str
    state: HealthState = HealthState.OK
    advice: str = ""
    headline: str = ""


@dataclass(frozen=True, slots=True)
class FigureGroup:
    """A named group of figures."""

    name: str
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Summary:
    """The state of all figures together, in one sentence, with advice for those that are not well."""

    state: HealthState
    sentence: str
    advice: list[str]


def group_figures(snapshot: HealthSnapshot) -> list[FigureGroup]:
    """All figures, in the groups of the page."""
    return [
        FigureGroup("Engines", list(_engines(snapshot))),
        FigureGroup("Pipeline", list(_pipeline(snapshot))),
        FigureGroup("Work", list(_work(snapshot.status))),
    ]


def summarize(figure_groups: list[FigureGroup]) -> Summary:
    """The summary of all figures. Its state is the worst of theirs."""
    figures = [figure for group in figure_groups for figure in group.figures]
    state = max((figure.state for figure in figures), key=STATES_BY_SEVERITY.index)
    not_well = [
        figure for figure in figures if figure.state in (HealthState.WARNING, HealthState.CRITICAL)
    ]
    not_well.sort(key=lambda figure: not figure.headline)
    advice = [figure.advice for figure in not_well]
    if not_well and not_well[0].headline:
        return Summary(state, not_well[0].headline, advice)
    match state:
        case HealthState.OK:
            return Summary(state, "All is well", advice)
        case HealthState.UNKNOWN:
            return Summary(state, "Some figures are unknown", advice)
    count = len(not_well)
    if state is HealthState.CRITICAL:
        sentence = counted(count, "figure is not well", "figures are not well")
    else:
        sentence = counted(count, "figure needs attention", "figures need attention")
    return Summary(state, sentence, advice)


def late_stages(status: Status, *, publishes: bool) -> list[str]:
    """What has been waiting for longer than it should, a sentence each; only if it `publishes` for searches.

    What is unknown is not late.
    """
    late: list[str] = []
    oldest, unpublished = status.oldest_seconds, status.unpublished_seconds
    if oldest is not None and oldest > MAX_LAG_SECONDS:
        reason = ""
        if status.workers == 0:
            reason = ", because no worker is running"
        elif status.paused:
            reason = ", because the workers are paused"
        late.append(f"accepted and not stored for {_lag(oldest, MAX_LAG_SECONDS)}{reason}")
    if publishes and unpublished is not None and unpublished > MAX_LAG_SECONDS:
        late.append(f"stored and not searchable for {_lag(unpublished, MAX_LAG_SECONDS)}")
    sync_lag = status.sync_lag_seconds
    if status.dirty_counters and sync_lag is not None and sync_lag > MAX_SYNC_LAG_SECONDS:
        late.append(f"counts not written to SQL for {_lag(sync_lag, MAX_SYNC_LAG_SECONDS)}")
    return late


def _lag(seconds: float, limit: float) -> str:
    return f"{format_duration(seconds)} (limit: {format_duration(limit)})"


def _engines(snapshot: HealthSnapshot) -> Iterator[Figure]:
    for engine in snapshot.engines:
        if engine.name == "Redis" and snapshot.wrong_redis:
            yield _wrong_redis(engine.product, snapshot.wrong_redis)
            continue
        yield _engine(engine)
        nodes = snapshot.status and snapshot.status.redis_nodes
        if engine.name == "Redis" and nodes and nodes.nodes > 1:
            yield _redis_nodes(nodes)
        elif engine.name == "Redis" and nodes and nodes.memory_share is not None:
            yield _redis_memory(nodes.memory_share)


def _wrong_redis(product: str, error: WrongRedis) -> Figure:
    """A Redis that is refused. The error's own text has an address, which is not for everybody."""
    if isinstance(error, UnknownRedis):
        value, headline = (
            "does not know this installation",
            "This Redis does not know this installation",
        )
        advice = (
            "nothing is accepted, because another Redis has issued its numbers: check INSTACHAT_REDIS_URL;"
            " if the data of the right Redis are lost for good, run `instachat adopt-redis`"
        )
    else:
        value, headline = "is another installation's", "This Redis is another installation's"
        advice = "nothing is accepted: check INSTACHAT_REDIS_URL and INSTACHAT_DATABASE_URL"
    return Figure(product, value, HealthState.CRITICAL, advice, headline)


def _redis_memory(share: float) -> Figure:
    """The memory of a single server: the log, counters and idempotency keys are all in it."""
    name, value = "Redis's memory", f"{share:.0%} used"
    if share > MAX_MEMORY_SHARE:
        advice = "Redis is short of memory, so creations are refused: see `instachat doctor`"
        return Figure(name, value, HealthState.CRITICAL, advice)
    return Figure(name, value)


def _redis_nodes(nodes: RedisNodesStatus) -> Figure:
    """The nodes of a cluster; a shard without a node is critical by itself."""
    name = "Redis's nodes"
    working = nodes.nodes - nodes.away
    share = nodes.memory_share
    value = f"{working} of {nodes.nodes} answer" + (
        "" if share is None else f", the fullest uses {share:.0%} of its memory"
    )
    if share is not None and share > MAX_MEMORY_SHARE:
        advice = "a node of Redis is short of memory, so its shards refuse: see `instachat doctor`"
        return Figure(name, value, HealthState.CRITICAL, advice)
    if nodes.away or nodes.behind:
        behind = f"; {counted(nodes.behind, 'replica is', 'replicas are')} behind"
        advice = "nodes of Redis are away or behind, so fewer can take over: see `instachat doctor`"
        return Figure(name, value + (behind if nodes.behind else ""), HealthState.WARNING, advice)
    return Figure(name, value)


def _engine(engine: EngineHealth) -> Figure:
    if engine.shards_away:
        return Figure(
            engine.product,
            f"no answer from {counted(len(engine.shards_away), 'shard')} of {engine.shards}",
            HealthState.CRITICAL,
            f"nothing is accepted or stored in {format_shards(engine.shards_away, engine.shards)} until their"
            " node is back or a replica has taken over; the others work: see `instachat doctor`",
        )
    if engine.seconds is not None:
        return Figure(engine.product, f"answers in {format_duration(engine.seconds)}")
    return Figure(
        engine.product,
        engine.problem,
        HealthState.CRITICAL,
        f"{engine.product} {engine.problem}: {_ENGINE_DOWN_ADVICE[engine.name]}",
    )


_ENGINE_DOWN_ADVICE = {
    "Redis": "nothing is accepted until it is back; what was accepted is in its log",
    "PostgreSQL": "numbers are still assigned, but nothing is stored, read or searched until it is back",
    "Elasticsearch": "until it is back, PostgreSQL searches, large chats incompletely; everything else works",
}


def _pipeline(snapshot: HealthSnapshot) -> Iterator[Figure]:
    """The stages of a message: accepted, stored, searchable. The rate of each, and what waits for it."""
    status, rates = snapshot.status, snapshot.rates
    if status is None:
        yield from map(_unknown, ("Accepted", "Stored", "Searchable"))
        return
    if status.totals.accepted is None:
        yield _unknown("Accepted")
    else:
        yield Figure("Accepted", _format_rate(rates.accepted))
    yield _pipeline_stage(
        "Stored",
        _format_rate(rates.stored),
        status.waiting,
        status.oldest_seconds,
        "accepted messages are stored late: the workers are too slow or fail to store; see their log",
    )
    if not any(engine.name == "Elasticsearch" for engine in snapshot.engines):
        yield Figure("Searchable", "as soon as stored, by PostgreSQL")
    elif status.schema and not status.search_index:
        advice = "there is no search index: run `instachat reindex`"
        yield Figure("Searchable", "no index", HealthState.CRITICAL, advice)
    else:
        yield _pipeline_stage(
            "Searchable",
            _format_rate(rates.searchable),
            status.unpublished,
            status.unpublished_seconds,
            "stored messages are published late: Elasticsearch is away or too slow, or no worker"
            " publishes; see the workers' log",
        )


def _pipeline_stage(
    name: str, rate: str, waiting: int | None, oldest_seconds: float | None, advice: str
) -> Figure:
    """One stage, with the number and the age of the messages that wait for it."""
    if waiting is None:
        return _unknown(name)
    if not waiting:
        return Figure(name, f"{rate}; nothing waits")
    since = "" if oldest_seconds is None else f", the oldest for {format_duration(oldest_seconds)}"
    value = f"{rate}; {counted(waiting, 'waits', 'wait')}{since}"
    if oldest_seconds is not None and oldest_seconds > MAX_LAG_SECONDS:
        return Figure(name, value, HealthState.WARNING, advice)
    return Figure(name, value)


_WORK_NAMES = (
    "Workers",
    "Job queue",
    "Dead letters",
    "Counts in SQL",
    "Stores compared",
    "PostgreSQL's past",
    "Schema",
)


def _work(status: Status | None) -> Iterator[Figure]:
    if status is None:
        yield from map(_unknown, _WORK_NAMES)
        return
    yield _workers(status.workers)
    yield _queue(status.queue, status.paused)
    yield _dead_letters(status.dead_letters)
    yield _counter_sync(status.dirty_counters, status.sync_lag_seconds)
    yield (
        _unknown("Stores compared") if status.schema is None else _reconciliation(status.reconciled)
    )
    yield _unknown("PostgreSQL's past") if status.schema is None else _rewind(status)
    if status.reshard:
        yield _reshard(status.reshard)
    yield _schema(status.schema)


def _workers(running: int | None) -> Figure:
    name = "Workers"
    if running is None:
        return _unknown(name)
    if running == 0:
        advice = "no worker is running, so nothing is stored: start one by `instachat worker`"
        return Figure(name, "none running", HealthState.CRITICAL, advice)
    return Figure(name, f"{running:,} running")


def _queue(jobs: int | None, paused: bool | None) -> Figure:
    name = "Job queue"
    if jobs is None:
        return _unknown(name)
    value = counted(jobs, "job waits", "jobs wait") if jobs else "nothing waits"
    if paused:
        advice = (
            "the workers are paused, so nothing is stored: resume them by `instachat queue resume`"
        )
        return Figure(name, f"paused; {value}", HealthState.WARNING, advice)
    return Figure(name, value)


def _dead_letters(counts: dict[str, int] | None) -> Figure:
    name = "Dead letters"
    if counts is None:
        return _unknown(name)
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in counts.items() if count)
    if kinds:
        advice = (
            "there are dead letters, which were rejected permanently: run `instachat dead list`"
        )
        return Figure(name, kinds, HealthState.WARNING, advice)
    return Figure(name, "none")


def _counter_sync(behind: int | None, seconds: float | None) -> Figure:
    """The counter sync runs once an hour, so counts in SQL may be an hour old."""
    name = "Counts in SQL"
    if behind is None:
        return _unknown(name)
    if not behind:
        return Figure(name, "current")
    value = f"{behind:,} behind" + (
        f", the oldest for {format_duration(seconds)}" if seconds else ""
    )
    if seconds is not None and seconds > MAX_SYNC_LAG_SECONDS:
        advice = "counts in SQL are too old: write them by `instachat sync-counters`"
        return Figure(name, value, HealthState.WARNING, advice)
    return Figure(name, value)


def _reconciliation(last: LastReconciliation | None) -> Figure:
    name = "Stores compared"
    if last is None:
        return Figure(name, "not yet")
    ago = f"{format_duration((datetime.now(UTC) - last.finished_at).total_seconds())} ago"
    if left := last.findings - last.repaired:
        advice = (
            "Redis, SQL and the index differed at the last comparison: run `instachat reconcile`"
        )
        return Figure(
            name,
            f"{ago}, {counted(left, 'difference', 'differences')}",
            HealthState.WARNING,
            advice,
        )
    return Figure(name, f"{ago}, no difference" + (" left" if last.findings else ""))


def _rewind(status: Status) -> Figure:
    name = "PostgreSQL's past"
    rewound = status.rewound
    if rewound is None:
        return Figure(name, "never went back in time")
    ago = format_duration((datetime.now(UTC) - rewound.at).total_seconds())
    lost = counted(rewound.lost, "number lost", "numbers lost") if rewound.lost else "none lost"
    value = f"went back in time, noticed {ago} ago, {lost}"
    if is_repaired(rewound, status.reconciled):
        return Figure(name, value)
    advice = (
        "PostgreSQL went back in time: repeat imports, then run `instachat reconcile --repair`; see"
        " `instachat doctor`"
    )
    return Figure(
        name, value, HealthState.CRITICAL if rewound.lost else HealthState.WARNING, advice
    )


def _reshard(reshard: ReshardStatus) -> Figure:
    """A reshard that has not ended. Everything works meanwhile, also if it was interrupted."""
    name, value = "Reshard", format_reshard(reshard)
    if reshard.running:
        return Figure(name, value)
    advice = f"a reshard was interrupted: run `{reshard.command}`, which continues"
    return Figure(name, value, HealthState.WARNING, advice)


def format_reshard(reshard: ReshardStatus) -> str:
    """From how many shards to how many, what is left, and whether it goes on."""
    left = (
        "applications are left to move"
        if reshard.to_move is None
        else f"{counted(reshard.to_move, 'application is', 'applications are')} left to move"
    )
    state = "running" if reshard.running else "interrupted"
    return f"{state}, from {reshard.shards:,} to {counted(reshard.target, 'shard')}; {left}"


def _schema(schema: Schema | None) -> Figure:
    if schema is None:
        return _unknown("Schema")
    if mismatch := schema.mismatch():
        advice = f"{mismatch.message}: {mismatch.hint}"
        return Figure("Schema", schema.number, HealthState.CRITICAL, advice)
    newer = schema.number > SCHEMA
    return Figure(
        "Schema",
        f"{schema.number}, {f'newer than the {SCHEMA} of this server' if newer else 'current'}",
    )


def _unknown(name: str) -> Figure:
    return Figure(name, "unknown", HealthState.UNKNOWN)


def _format_rate(per_second: float | None) -> str:
    if per_second is None:
        return "rate not measured yet"
    return f"{per_second:,.0f} a second" if per_second >= 10 else f"{per_second:.2g} a second"


def format_duration(seconds: float) -> str:
    """A duration in its most readable unit."""
    if seconds < 1:
        return f"{max(seconds * 1000, 1):.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
