"""Two measurements side by side as Markdown: what differs, and whether that is more than noise.

Each side is one run or, better, several of the same. A value is the geometric mean of its runs. A change
comes with an interval: where it would lie nineteen times of twenty, by the spread of the logarithms between
the runs of a side (Student's t). Of fewer than three runs no spread is known; then a run is taken to differ
from the next one as much as its own seconds differ from each other, which is cautious. A change is a
regression only if its whole interval is beyond the tolerance.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from loadtest.result import Moment, Requests, Result

ENOUGH_RUNS = 3
ENOUGH_SECONDS = 10
Z = 1.96


@dataclass(frozen=True)
class Metric:
    """One thing that is compared; `sign` is 1 where more is worse."""

    name: str
    of: Callable[[Requests], float | None]
    by_second: Callable[[Moment], float | None]
    sign: int


METRICS = (
    Metric("rate/s", lambda row: row.rate, lambda moment: moment.rate, -1),
    Metric("p50 ms", lambda row: row.p50_ms, lambda moment: moment.p50_ms, 1),
    Metric("p99 ms", lambda row: row.p99_ms, lambda moment: moment.p99_ms, 1),
)


@dataclass(frozen=True)
class Change:
    """How a metric of a route has changed: `ratio` is new by old, `low` and `high` its interval."""

    route: str
    metric: Metric
    old: float
    new: float
    ratio: float
    low: float
    high: float

    def regressed(self, tolerance: float) -> bool:
        """Whether it is certainly worse by more than that share."""
        if self.metric.sign > 0:
            return self.low > 1 + tolerance
        return self.high < 1 / (1 + tolerance)

    @property
    def is_noise(self) -> bool:
        """Whether no change at all is as likely."""
        return self.low <= 1 <= self.high


def changes(old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    """Every metric of every route that both sides have; ValueError if they did not do the same."""
    for name in ("scenario", "profile", "model", "users", "rate", "processes"):
        found = {getattr(result, name) for result in (*old, *new)}
        if len(found) > 1:
            raise ValueError(f"these runs differ in {name}: {', '.join(sorted(map(str, found)))}")
    routes = [row.name for row in old[0].requests]
    return [
        change
        for route in [*routes, "all"]
        for metric in METRICS
        if (change := _change(route, metric, old, new))
    ]


def markdown(
    old: Sequence[Result], new: Sequence[Result], found: Sequence[Change], tolerance: float
) -> Iterator[str]:
    """The comparison, line by line."""
    first = old[0]
    yield f"# {first.scenario}, {first.profile}: {len(old)} against {len(new)} runs"
    yield ""
    few = min(len(old), len(new)) < ENOUGH_RUNS
    noise = "the seconds within a run: three runs a side would tell more" if few else "the runs"
    yield (
        f"{first.model.capitalize()} model. Intervals of 95 %, from the spread of {noise}. A regression is"
        f" worse by more than {tolerance:.0%} over its whole interval."
    )
    yield ""
    yield "| route | metric | before | after | change | interval | |"
    yield "| --- | --- | ---: | ---: | ---: | --- | --- |"
    for change in found:
        low, high = f"{change.low - 1:+.0%}", f"{change.high - 1:+.0%}"
        yield (
            f"| {change.route} | {change.metric.name} | {change.old:,.1f} | {change.new:,.1f} |"
            f" {change.ratio - 1:+.1%} | {low} to {high} | {_verdict(change, tolerance)} |"
        )
    yield ""
    for name, side in (("before", old), ("after", new)):
        faults = sum(sum(result.audit.faults.values()) for result in side)
        failed = sum(result.total.failures for result in side)
        commits = ", ".join(dict.fromkeys(r.facts.get("InstaChat", "unknown") for r in side))
        yield f"- {name}: {commits}; {failed:,} requests failed, the audit found {faults:,} faults"


def _change(
    route: str, metric: Metric, old: Sequence[Result], new: Sequence[Result]
) -> Change | None:
    before, after = _values(route, metric, old), _values(route, metric, new)
    if not before or not after:
        return None
    here, there = fmean(map(math.log, before)), fmean(map(math.log, after))
    ratio = math.exp(there - here)
    error = _quantile(len(before) + len(after) - 2) * math.hypot(
        _error(before, metric, old), _error(after, metric, new)
    )
    return Change(
        route,
        metric,
        math.exp(here),
        math.exp(there),
        ratio,
        ratio * math.exp(-error),
        ratio * math.exp(error),
    )


def _values(route: str, metric: Metric, results: Sequence[Result]) -> list[float]:
    """The metric of each run that has it."""
    rows = (row for result in results for row in (*result.requests, result.total))
    return [value for row in rows if row.name == route and (value := metric.of(row))]


def _error(values: Sequence[float], metric: Metric, results: Sequence[Result]) -> float:
    """The standard error of the mean logarithm."""
    if len(values) >= ENOUGH_RUNS:
        return stdev(map(math.log, values)) / math.sqrt(len(values))
    seconds = [
        math.log(value)
        for result in results
        for moment in result.timeline
        if result.window.from_s <= moment.at_s < result.window.to_s - 1
        if (value := metric.by_second(moment))
    ]
    return stdev(seconds) if len(seconds) >= ENOUGH_SECONDS else math.inf


def _quantile(freedom: int) -> float:
    """Student's t at 97.5 %, by its expansion around the normal distribution's; that one of too few runs."""
    if freedom < 2 * (ENOUGH_RUNS - 1):
        return Z
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


def _verdict(change: Change, tolerance: float) -> str:
    if change.regressed(tolerance):
        return "**regression**"
    if change.is_noise:
        return "noise"
    return "worse" if (change.ratio > 1) == (change.metric.sign > 0) else "better"
