"""What the figures mean to a person: is this well, and if not, what now?

Totals only: no names, tokens or texts, and no engine's address.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from backend.api.watch import EngineSeen, Seen
from backend.sql import SCHEMA
from backend.status import Status

LATE_SECONDS = 10.0  # a worker that keeps up stores within one


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
        Group("On the way", list(_on_the_way(seen.status))),
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


def _on_the_way(status: Status | None) -> Iterator[Figure]:
    name = "Accepted, not stored yet"
    if status is None or status.waiting is None:
        yield _unknown(name)
    elif not status.waiting:
        yield Figure(name, "nothing")
    else:
        late = status.oldest_seconds is not None and status.oldest_seconds > LATE_SECONDS
        yield Figure(
            name,
            _count(status.waiting, "log entry", "log entries") + _since(status.oldest_seconds),
            State.LOOK if late else State.WELL,
            "what is accepted is stored late: the workers do not keep up, or can't store"
            if late
            else "",
        )


def _work(status: Status | None) -> Iterator[Figure]:
    if status is None:
        yield from map(
            _unknown, ("Workers", "Job queue", "Dead letters", "Counters to sync", "Schema")
        )
        return
    yield _workers(status.workers)
    yield _counted("Job queue", status.queue, "job waits", "jobs wait")
    yield _counted(
        "Dead letters",
        status.dead_letters,
        "letter",
        "letters",
        "there are dead letters: see `instachat dead list`",
    )
    yield _counted("Counters to sync", status.unsynced_counters, "counter", "counters")
    yield _schema(status.schema)


def _workers(running: int | None) -> Figure:
    if running == 0:
        advice = "no worker is running, so nothing is stored: start one by `instachat worker`"
        return Figure("Workers", "none running", State.BAD, advice)
    return _counted("Workers", running, "running", "running")


def _schema(schema: str | None) -> Figure:
    if schema is None:
        return _unknown("Schema")
    if schema != SCHEMA:
        advice = (
            f"the database has schema {schema}, this server needs {SCHEMA}: `instachat migrate`"
        )
        return Figure("Schema", schema, State.BAD, advice)
    return Figure("Schema", f"{schema}, current")


def _counted(name: str, count: int | None, one: str, many: str, advice: str = "") -> Figure:
    """A count; one that has an advice is to be looked at unless it is zero."""
    if count is None:
        return _unknown(name)
    if not count:
        return Figure(name, "none")
    return Figure(name, _count(count, one, many), State.LOOK if advice else State.WELL, advice)


def _unknown(name: str) -> Figure:
    return Figure(name, "unknown", State.UNKNOWN)


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _since(seconds: float | None) -> str:
    return "" if seconds is None else f", the oldest for {_duration(seconds)}"


def _duration(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 1:
        return f"{max(seconds * 1000, 1):.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
