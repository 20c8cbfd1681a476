"""What the figures mean to a person: is this well, and if not, what now?

Totals only: no names, tokens or texts, and no engine's address.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from backend.api.health.poller import EngineSeen, Seen
from backend.monitoring.status import Status
from backend.storage.postgres import SCHEMA
from backend.storage.postgres.reconciliations import LastReconciliation

LATE_SECONDS = 10.0  # workers that keep up store, and publish, within one
SYNC_SECONDS = 2 * 3600.0  # counts are written once an hour


class State(StrEnum):
    """How a figure is, the worst last."""

    WELL = "well"
    UNKNOWN = "unknown"
    LOOK = "look at this"
    BAD = "not well"


WORST_LAST = list(State)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the page. `advice` says what it means when it is not well."""

    name: str
    value: str
    state: State = State.WELL
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that belong together."""

    name: str
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Verdict:
    """All in one sentence, and what is to be looked at."""

    state: State
    sentence: str
    advice: list[str]


def groups(seen: Seen) -> list[Group]:
    """All figures, as the page shows them."""
    return [
        Group("Engines", [_engine(engine) for engine in seen.engines]),
        Group("On the way", list(_on_the_way(seen))),
        Group("Work", list(_work(seen.status))),
    ]


def verdict(found: list[Group]) -> Verdict:
    """What the figures come to."""
    figures = [figure for group in found for figure in group.figures]
    state = max((figure.state for figure in figures), key=WORST_LAST.index)
    wrong = [figure for figure in figures if figure.state in (State.LOOK, State.BAD)]
    advice = [figure.advice for figure in wrong]
    match state:
        case State.WELL:
            return Verdict(state, "All is well", advice)
        case State.UNKNOWN:
            return Verdict(state, "Not everything is known", advice)
    things = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
    return Verdict(
        state, f"{things} not well" if state is State.BAD else f"{things} to be looked at", advice
    )


def _engine(engine: EngineSeen) -> Figure:
    if engine.seconds is not None:
        return Figure(engine.product, f"answers in {_duration(engine.seconds)}")
    return Figure(
        engine.product,
        engine.trouble,
        State.BAD,
        f"{engine.product} {engine.trouble}: {_WITHOUT[engine.name]}",
    )


_WITHOUT = {
    "Redis": "nothing is accepted until it is back; what was accepted is in its log",
    "PostgreSQL": "numbers are still given, but nothing is stored, read or searched until it is back",
    "Elasticsearch": "nothing can be searched until it is back; all else goes on",
}


def _on_the_way(seen: Seen) -> Iterator[Figure]:
    """What is accepted, stored and searchable: how much a second, and how much is not that far yet."""
    found, rates = seen.status, seen.rates
    if found is None:
        yield from map(_unknown, ("Accepted", "Stored", "Searchable"))
        return
    if found.totals.accepted is None:
        yield _unknown("Accepted")
    else:
        yield Figure("Accepted", _rate(rates.accepted))
    yield _step(
        "Stored",
        _rate(rates.stored),
        found.waiting,
        found.oldest_seconds,
        "what is accepted is stored late: the workers do not keep up, or can't store; see their log",
    )
    if not any(engine.name == "Elasticsearch" for engine in seen.engines):
        yield Figure("Searchable", "as soon as it is stored, by PostgreSQL")
    elif found.schema and not found.search_index:
        advice = "there is no search index: run `instachat reindex`"
        yield Figure("Searchable", "no index", State.BAD, advice)
    else:
        yield _step(
            "Searchable",
            _rate(rates.searchable),
            found.unpublished,
            found.unpublished_seconds,
            "what is stored becomes searchable late: Elasticsearch is away or too slow, or no worker"
            " publishes; see the workers' log",
        )


def _step(
    name: str, rate: str, waiting: int | None, oldest_seconds: float | None, advice: str
) -> Figure:
    """A step of the way, with what waits before it."""
    if waiting is None:
        return _unknown(name)
    if not waiting:
        return Figure(name, f"{rate}; nothing waits")
    since = "" if oldest_seconds is None else f", the oldest for {_duration(oldest_seconds)}"
    value = f"{rate}; {_count(waiting, 'waits', 'wait')}{since}"
    if oldest_seconds is not None and oldest_seconds > LATE_SECONDS:
        return Figure(name, value, State.LOOK, advice)
    return Figure(name, value)


_WORK = ("Workers", "Job queue", "Dead letters", "Counts in SQL", "Stores compared", "Schema")


def _work(found: Status | None) -> Iterator[Figure]:
    if found is None:
        yield from map(_unknown, _WORK)
        return
    yield _workers(found.workers)
    yield _queue(found.queue, found.paused)
    yield _letters(found.dead_letters)
    yield _counters(found.unsynced_counters, found.sync_lag_seconds)
    yield _unknown("Stores compared") if found.schema is None else _compared(found.reconciled)
    yield _schema(found.schema)


def _workers(running: int | None) -> Figure:
    name = "Workers"
    if running is None:
        return _unknown(name)
    if running == 0:
        advice = "no worker is running, so nothing is stored: start one by `instachat worker`"
        return Figure(name, "none running", State.BAD, advice)
    return Figure(name, f"{running:,} running")


def _queue(jobs: int | None, paused: bool | None) -> Figure:
    name = "Job queue"
    if jobs is None:
        return _unknown(name)
    value = _count(jobs, "job waits", "jobs wait") if jobs else "nothing waits"
    if paused:
        advice = "the workers are paused, so nothing is stored: `instachat queue resume`"
        return Figure(name, f"paused; {value}", State.LOOK, advice)
    return Figure(name, value)


def _letters(letters: dict[str, int] | None) -> Figure:
    name = "Dead letters"
    if letters is None:
        return _unknown(name)
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in letters.items() if count)
    if kinds:
        advice = "there are dead letters, which were refused for good: `instachat dead list`"
        return Figure(name, kinds, State.LOOK, advice)
    return Figure(name, "none")


def _counters(behind: int | None, seconds: float | None) -> Figure:
    """Counts are copied into SQL once an hour, so they may be behind for as long."""
    name = "Counts in SQL"
    if behind is None:
        return _unknown(name)
    if not behind:
        return Figure(name, "current")
    value = f"{behind:,} behind" + (f", the oldest for {_duration(seconds)}" if seconds else "")
    if seconds is not None and seconds > SYNC_SECONDS:
        advice = "counts in SQL are behind for too long: `instachat sync-counters` writes them"
        return Figure(name, value, State.LOOK, advice)
    return Figure(name, value)


def _compared(last: LastReconciliation | None) -> Figure:
    name = "Stores compared"
    if last is None:
        return Figure(name, "not yet")
    ago = f"{_duration((datetime.now(UTC) - last.finished_at).total_seconds())} ago"
    if left := last.findings - last.mended:
        advice = (
            "Redis, SQL and the index differed when they were last compared: `instachat reconcile`"
        )
        return Figure(
            name, f"{ago}, {_count(left, 'difference', 'differences')}", State.LOOK, advice
        )
    return Figure(name, f"{ago}, no difference" + (" is left" if last.findings else ""))


def _schema(schema: str | None) -> Figure:
    if schema is None:
        return _unknown("Schema")
    if schema != SCHEMA:
        advice = (
            f"the database has schema {schema}, this server needs {SCHEMA}: `instachat migrate`"
        )
        return Figure("Schema", schema, State.BAD, advice)
    return Figure("Schema", f"{schema}, current")


def _unknown(name: str) -> Figure:
    return Figure(name, "unknown", State.UNKNOWN)


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _rate(a_second: float | None) -> str:
    if a_second is None:
        return "rate not measured yet"
    return f"{a_second:,.0f} a second" if a_second >= 10 else f"{a_second:.2g} a second"


def _duration(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 1:
        return f"{max(seconds * 1000, 1):.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
