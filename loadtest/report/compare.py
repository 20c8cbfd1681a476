"""Compares two measurements, and renders the comparison as Markdown.

Each side is one run or, better, several equal runs. A value is the geometric mean over the runs of a side.
Each change has a confidence interval of 95 %, computed from the spread of the logarithms between the runs of
a side (Student's t). For fewer than three runs, the spread between the seconds within a run is used instead,
which is a cautious estimate. If the seconds show no spread either, the interval is unknown. A change is a
regression only if its whole interval is beyond the tolerance.

If a run has no value for a metric (no level held, no sample arrived, a route had no requests), a mean over
the other runs would be too favourable. The metric is then reported as missing, and a higher share of runs
without a value is a regression in itself.

The share of failures is a regression if it has risen by more than three standard errors.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean, stdev

from loadtest.report.result import Moment, Result, RouteStatistics

MIN_RUNS = 3
MIN_SECONDS = 10
Z = 1.96
ALL = "all"  # the name of the row for all routes together
MIN_STANDARD_ERRORS = 3.0
MIN_FAILURE_DIFFERENCE = 0.001  # share of the requests; a smaller rise is ignored


@dataclass(frozen=True)
class Metric:
    """A value that is compared. `sign` is 1 if a higher value is worse, else -1.

    `by_second` is None if the seconds of a run do not have the value.
    """

    of_what: str
    name: str
    of: Callable[[Result], float | None]
    by_second: Callable[[Moment], float | None] | None
    sign: int


@dataclass(frozen=True)
class Change:
    """How a metric has changed: `ratio` is new divided by old, `low` and `high` are its interval."""

    metric: Metric
    old: float
    new: float
    ratio: float
    low: float
    high: float

    def regressed(self, tolerance: float) -> bool:
        """Whether the whole interval is worse by more than that share."""
        if self.metric.sign > 0:
            return self.low > 1 + tolerance
        return self.high < 1 / (1 + tolerance)

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes no change."""
        return self.low <= 1 <= self.high

    @property
    def is_unknown(self) -> bool:
        """Whether the interval could not be computed."""
        return math.isinf(self.high)


@dataclass(frozen=True)
class Missing:
    """A metric that some runs lack; `old` and `new` are the values of each run."""

    metric: Metric
    old: Sequence[float | None]
    new: Sequence[float | None]

    @property
    def regressed(self) -> bool:
        """Whether the share of runs without a value has risen."""
        return _missing_share(self.new) > _missing_share(self.old)


@dataclass(frozen=True)
class Failures:
    """The shares of a route's requests that failed, before and after."""

    route: str
    old: float
    new: float
    error: float  # the standard error of their difference

    @property
    def regressed(self) -> bool:
        """Whether the share has risen beyond chance and by a relevant amount."""
        return self.new - self.old > max(MIN_STANDARD_ERRORS * self.error, MIN_FAILURE_DIFFERENCE)


COMPARED_OPTIONS: dict[str, Callable[[Result], object]] = {
    **{name: attrgetter(name) for name in ("scenario", "profile", "model", "users", "rate")},
    "processes": attrgetter("processes"),
    "seconds": attrgetter("planned_s"),
    "chats": attrgetter("chats"),
    "limits of a step": lambda result: result.breakpoint and result.breakpoint.limits,
}


def differing_options(old: Sequence[Result], new: Sequence[Result]) -> list[str]:
    """The options in which the runs differ, in words, and how many runs of a side were interrupted."""
    found = []
    for name, of in COMPARED_OPTIONS.items():
        values = dict.fromkeys(
            "none" if (value := of(result)) is None else str(value) for result in (*old, *new)
        )
        if len(values) > 1:
            found.append(f"{name}: {', '.join(values)}")
    for name, side in (("before", old), ("after", new)):
        if cut := sum(result.interrupted for result in side):
            found.append(f"length: {cut} of {_runs(side)} {name} interrupted")
    return found


def changes(old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    """The change of every metric that all runs have."""
    return [
        _change(metric, old, new)
        for metric in _metrics(old, new)
        if all(_values(metric, [*old, *new]))
    ]


def missing(old: Sequence[Result], new: Sequence[Result]) -> list[Missing]:
    """Every metric that some runs have and others lack."""
    found = [Missing(m, _values(m, old), _values(m, new)) for m in _metrics(old, new)]
    return [m for m in found if any((*m.old, *m.new)) and not all((*m.old, *m.new))]


def failures(old: Sequence[Result], new: Sequence[Result]) -> list[Failures]:
    """The failures of every route with any."""
    found = []
    for route in _routes(old):
        (failed, count), (failed_now, count_now) = _failed(route, old), _failed(route, new)
        if count and count_now and failed + failed_now:
            both = (failed + failed_now) / (count + count_now)
            error = math.sqrt(both * (1 - both) * (1 / count + 1 / count_now))
            found.append(Failures(route, failed / count, failed_now / count_now, error))
    return found


def markdown(old: Sequence[Result], new: Sequence[Result], tolerance: float) -> Iterator[str]:
    """The comparison as lines of Markdown."""
    first = old[0]
    sides = f"{_runs(old)} before, {_runs(new)} after"
    yield f"# {first.scenario}, {first.profile}: {sides}"
    yield ""
    for difference in differing_options(old, new):
        yield f"**These runs differ** in {difference}."
        yield ""
    too_few = min(len(old), len(new)) < MIN_RUNS
    noise = (
        "the seconds within a run (three runs a side would be more precise)"
        if too_few
        else "the runs"
    )
    yield (
        f"{first.model.capitalize()} model. Intervals are 95 % confidence intervals, from the spread of"
        f" {noise}. A change is a regression if its whole interval is worse by more than {tolerance:.0%}."
    )
    yield ""
    yield "| of | metric | before | after | change | interval | |"
    yield "| --- | --- | ---: | ---: | ---: | --- | --- |"
    for change in changes(old, new):
        interval = f"{change.low - 1:+.0%} to {change.high - 1:+.0%}"
        yield (
            f"| {change.metric.of_what} | {change.metric.name} | {change.old:,.1f} | {change.new:,.1f} |"
            f" {change.ratio - 1:+.1%} | {'unknown' if change.is_unknown else interval} |"
            f" {_verdict(change, tolerance)} |"
        )
    for gone in missing(old, new):
        yield (
            f"| {gone.metric.of_what} | {gone.metric.name} | {_mean(gone.old)} | {_mean(gone.new)} | | |"
            f" {'**regression**' if gone.regressed else 'not in every run'} |"
        )
    for failed in failures(old, new):
        verdict = "**regression**" if failed.regressed else ""
        yield f"| {failed.route} | failed | {failed.old:.2%} | {failed.new:.2%} | | | {verdict} |"
    yield ""
    for name, side in (("before", old), ("after", new)):
        faults = sum(sum(result.audit.faults.values()) for result in side)
        failed_now = sum(result.total.failures for result in side)
        commits = ", ".join(dict.fromkeys(r.facts.get("InstaChat", "unknown") for r in side))
        yield f"- {name}: {commits}; {failed_now:,} requests failed, the audit found {faults:,} faults"
        for warning in dict.fromkeys(warning for result in side for warning in result.warnings):
            yield f"- {name}, a warning: {warning}"
    yield from _other_facts(old, new)


def _runs(side: Sequence[Result]) -> str:
    return f"{len(side)} run{'s' if len(side) > 1 else ''}"


def _other_facts(old: Sequence[Result], new: Sequence[Result]) -> Iterator[str]:
    """The facts, such as the machine, and the seeds that differ. Runs with other seeds have the same load."""
    seeds = [", ".join(dict.fromkeys(str(r.seed) for r in side)) for side in (old, new)]
    if seeds[0] != seeds[1]:
        yield f"- differs: seed: {seeds[0]}; then {seeds[1]}"
    names = dict.fromkeys(name for result in (*old, *new) for name in result.facts)
    for name in names:
        before, after = (
            dict.fromkeys(result.facts.get(name, "unknown") for result in side)
            for side in (old, new)
        )
        if name != "InstaChat" and before != after:
            yield f"- differs: {name}: {', '.join(before)}; then {', '.join(after)}"


def _routes(results: Sequence[Result]) -> list[str]:
    return [*dict.fromkeys(row.name for result in results for row in result.requests), ALL]


def _metrics(old: Sequence[Result], new: Sequence[Result]) -> list[Metric]:
    metrics = [m for route in _routes([*old, *new]) for m in _route_metrics(route)]
    lags = dict.fromkeys(until for result in (*old, *new) for until, _ in result.lag_ms.items())
    return [*metrics, *(metric for until in lags for metric in _lag_metrics(until)), CARRIED]


def _values(metric: Metric, results: Sequence[Result]) -> list[float | None]:
    """The value of each run; None also for a rate of 0."""
    return [metric.of(result) or None for result in results]


def _missing_share(values: Sequence[float | None]) -> float:
    """The share of runs without a value."""
    return values.count(None) / len(values)


def _mean(values: Sequence[float | None]) -> str:
    """The mean of the known values, and how many are missing."""
    known = [math.log(value) for value in values if value]
    if not known:
        return "missing"
    few = f", missing in {len(values) - len(known)} of {len(values)}"
    return f"{math.exp(fmean(known)):,.1f}{few if len(known) < len(values) else ''}"


def _row(route: str, result: Result) -> RouteStatistics | None:
    rows = (*result.requests, result.total)
    return next((row for row in rows if row.name == route), None)


def _route_metrics(route: str) -> Iterator[Metric]:
    """The metrics of a route. The rate of a single route follows from the scenario and is not compared."""
    for name, field, sign in (
        ("rate/s", "rate", -1),
        ("p50 ms", "p50_ms", 1),
        ("p95 ms", "p95_ms", 1),
        ("p99 ms", "p99_ms", 1),
    ):
        if field == "rate" and route != ALL:
            continue
        yield Metric(
            route,
            name,
            lambda result, field=field: getattr(_row(route, result), field, None),  # type: ignore[misc]
            attrgetter(field),
            sign,
        )


def _lag_metrics(until: str) -> Iterator[Metric]:
    """The metrics of a lag. A second has too few samples for other percentiles than the median."""
    for name in ("p50", "p95", "p99"):
        by_second = attrgetter(f"{until}_ms") if name == "p50" else None
        yield Metric(f"answer to {until}", f"{name} ms", _lag(until, name), by_second, 1)


def _lag(until: str, name: str) -> Callable[[Result], float | None]:
    return lambda result: getattr(getattr(result.lag_ms, until), name, None)


def _carried(result: Result) -> float | None:
    return result.breakpoint.level if result.breakpoint else None


CARRIED = Metric("breakpoint", "carried/s", _carried, None, -1)


def _failed(route: str, results: Sequence[Result]) -> tuple[int, int]:
    rows = [row for result in results if (row := _row(route, result))]
    return sum(row.failures for row in rows), sum(row.count for row in rows)


def _change(metric: Metric, old: Sequence[Result], new: Sequence[Result]) -> Change:
    before, after = ([v for v in _values(metric, side) if v] for side in (old, new))
    old_mean, new_mean = fmean(map(math.log, before)), fmean(map(math.log, after))
    ratio = math.exp(new_mean - old_mean)
    error = _quantile(len(before) + len(after) - 2) * math.hypot(
        _error(before, metric, old), _error(after, metric, new)
    )
    return Change(
        metric,
        old=math.exp(old_mean),
        new=math.exp(new_mean),
        ratio=ratio,
        low=ratio * math.exp(-error),
        high=ratio * math.exp(error),
    )


def _error(values: Sequence[float], metric: Metric, results: Sequence[Result]) -> float:
    """The standard error of the mean logarithm; infinite if it is unknown."""
    if len(values) >= MIN_RUNS:
        return stdev(map(math.log, values)) / math.sqrt(len(values))
    if metric.by_second is None:
        return math.inf
    seconds = [
        math.log(value)
        for result in results
        for moment in result.timeline
        if result.window.from_s <= moment.at_s < result.window.to_s - 1
        if (value := metric.by_second(moment))
    ]
    return stdev(seconds) if len(seconds) >= MIN_SECONDS else math.inf


def _quantile(freedom: int) -> float:
    """Student's t at 97.5 %, by its expansion around the normal quantile, which is used for too few runs."""
    if freedom < 2 * (MIN_RUNS - 1):
        return Z
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


def _verdict(change: Change, tolerance: float) -> str:
    if change.regressed(tolerance):
        return "**regression**"
    if change.is_unknown:
        return "too few runs"
    if change.is_noise:
        return "noise"
    return "worse" if (change.ratio > 1) == (change.metric.sign > 0) else "better"
