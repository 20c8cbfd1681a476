"""Compares two measurements, and renders the comparison as Markdown.

Each side is one run or, better, several equal runs; a value of a side is the median of its runs. With eight
runs a side that took turns, or six in any order, rank tests tell shifts from chance (`significance`). With
fewer runs, the spread between three runs of a side is used (Student's t), or else that of the seconds within
a run: runs are then taken to differ as much as their seconds do, which is cautious. If that is not known
either, the interval is unknown.

A change is a regression if it is certain, with all values of the comparison together, and larger than the
tolerance.

If a run has no value for a metric (no level held, no sample arrived, a route had no requests), a median of
the other runs would be too favourable. The metric is then reported as missing, and a higher share of runs
without a value is a regression in itself.

The share of failures is a regression if it has risen by more than three standard errors.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from statistics import NormalDist, median, stdev

from loadtest.report.metrics import MEDIAN, Metric, metrics_of, routes_of, row_of
from loadtest.report.result import Result
from loadtest.report.significance import (
    MAX_P,
    MIN_PAIRS,
    MIN_RUNS,
    Shift,
    Z,
    paired_shifts,
    unpaired_shifts,
)

MIN_SPREAD_RUNS = 3  # of a side, to use their spread
MIN_SECONDS = 10  # of a side, to use their spread
REGRESSION = "regression"
FAILED = "failed"  # the name of the metric of failed requests
MIN_STANDARD_ERRORS = 3.0
MIN_FAILURE_DIFFERENCE = 0.001  # share of the requests; a smaller rise is ignored


class Method(StrEnum):
    """From which differences the intervals are computed, in words."""

    PAIRS = "the ranks of the differences between runs that took turns"
    RUNS = "the ranks of the runs of both sides"
    SPREAD = "the spread between the runs"
    SECONDS = "the spread of the seconds within the runs"


@dataclass(frozen=True)
class Change:
    """How a metric has changed: `ratio` is new divided by old, `low` and `high` are its interval of 95 %.

    `is_certain`: it is worse, which chance does not explain in any of the compared metrics.
    """

    metric: Metric
    old: float
    new: float
    ratio: float
    low: float
    high: float
    is_certain: bool

    def regressed(self, tolerance: float) -> bool:
        """Whether it is certain, and worse by more than that share."""
        return self.is_certain and self.ratio**self.metric.sign > 1 + tolerance

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
    "arrivals": lambda result: result.arrivals or ("uniform" if result.rate else None),
    "processes": attrgetter("processes"),
    "seconds": attrgetter("planned_s"),
    "chats": attrgetter("chats"),
    "preload": attrgetter("preload"),
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


def method(old: Sequence[Result], new: Sequence[Result]) -> Method:
    """How these runs are compared."""
    runs = min(len(old), len(new))
    if runs >= MIN_PAIRS and _took_turns(old, new):
        return Method.PAIRS
    if runs >= MIN_RUNS:
        return Method.RUNS
    return Method.SPREAD if runs >= MIN_SPREAD_RUNS else Method.SECONDS


def changes(old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    """The change of every metric that all runs have."""
    old, new = _by_time(old), _by_time(new)
    metrics = [m for m in metrics_of([*old, *new]) if all(_values(m, [*old, *new]))]
    before = [_logarithms(metric, old) for metric in metrics]
    after = [_logarithms(metric, new) for metric in metrics]
    if not metrics:
        return []
    titles = [(metric.of_what, metric.name) for metric in metrics]
    first = titles.index(MEDIAN) if MEDIAN in titles else None
    match method(old, new):
        case Method.PAIRS:
            both = zip(before, after, strict=True)
            differences = [[y - x for x, y in zip(*values, strict=True)] for values in both]
            shifts = paired_shifts(differences, first)
        case Method.RUNS:
            shifts = unpaired_shifts(before, after, first)
        case _:
            shifts = [_spread_shift(metric, old, new, len(metrics)) for metric in metrics]
    return list(map(_change, metrics, before, after, shifts))


def missing(old: Sequence[Result], new: Sequence[Result]) -> list[Missing]:
    """Every metric that some runs have and others lack."""
    metrics = metrics_of([*old, *new])
    found = [Missing(m, _values(m, old), _values(m, new)) for m in metrics]
    return [m for m in found if any((*m.old, *m.new)) and not all((*m.old, *m.new))]


def failures(old: Sequence[Result], new: Sequence[Result]) -> list[Failures]:
    """The failures of every route with any."""
    found = []
    for route in routes_of(old):
        (failed, count), (failed_now, count_now) = _failed(route, old), _failed(route, new)
        if count and count_now and failed + failed_now:
            both = (failed + failed_now) / (count + count_now)
            error = math.sqrt(both * (1 - both) * (1 / count + 1 / count_now))
            found.append(Failures(route, failed / count, failed_now / count_now, error))
    return found


@dataclass(frozen=True)
class ComparedRow:
    """A row of the comparison, in words; what does not apply is empty."""

    of: str  # the route, or the lag
    metric: str
    before: str
    after: str
    change: str
    interval: str  # of the change, at 95 % confidence
    verdict: str

    @property
    def complaint(self) -> str:
        """A regression, in words."""
        if self.metric == FAILED:
            return f"failures of {self.of}"
        if not self.change:
            return f"no {self.metric} of {self.of} any more"
        return f"{self.metric} of {self.of}"


def rows(old: Sequence[Result], new: Sequence[Result], tolerance: float) -> Iterator[ComparedRow]:
    """Every metric that changed or stayed, then those that some runs lack, then failures."""
    for change in changes(old, new):
        interval = f"{change.low - 1:+.0%} to {change.high - 1:+.0%}"
        yield ComparedRow(
            *(change.metric.of_what, change.metric.name),
            *(f"{change.old:,.1f}", f"{change.new:,.1f}", f"{change.ratio - 1:+.1%}"),
            "unknown" if change.is_unknown else interval,
            _verdict(change, tolerance),
        )
    for gone in missing(old, new):
        verdict = REGRESSION if gone.regressed else "not in every run"
        before, after = _known(gone.old), _known(gone.new)
        yield ComparedRow(gone.metric.of_what, gone.metric.name, before, after, "", "", verdict)
    for failed in failures(old, new):
        verdict = REGRESSION if failed.regressed else ""
        before, after = f"{failed.old:.2%}", f"{failed.new:.2%}"
        yield ComparedRow(failed.route, FAILED, before, after, "", "", verdict)


def markdown(old: Sequence[Result], new: Sequence[Result], tolerance: float) -> Iterator[str]:
    """The comparison as lines of Markdown."""
    first = old[0]
    sides = f"{_runs(old)} before, {_runs(new)} after"
    yield f"# {first.scenario}, {first.profile}: {sides}"
    yield ""
    for difference in differing_options(old, new):
        yield f"**These runs differ** in {difference}."
        yield ""
    yield (
        f"{first.model.capitalize()} model. Values are medians, and intervals are of 95 %, by"
        f" {method(old, new)}. A change is a regression if chance does not explain it in any of these values"
        f" (5 %, half of it for the p50 of all requests), and it is worse by more than {tolerance:.0%}."
    )
    yield ""
    yield "| of | metric | before | after | change | interval | |"
    yield "| --- | --- | ---: | ---: | ---: | --- | --- |"
    for row in rows(old, new, tolerance):
        verdict = f"**{row.verdict}**" if row.verdict == REGRESSION else row.verdict
        yield (
            f"| {row.of} | {row.metric} | {row.before} | {row.after} | {row.change} | {row.interval} |"
            f" {verdict} |"
        )
    yield ""
    for name, side in (("before", old), ("after", new)):
        faults = sum(sum(result.audit.faults.values()) for result in side)
        failed_now = sum(result.total.failures for result in side)
        commits = ", ".join(dict.fromkeys(r.facts.get("InstaChat", "unknown") for r in side))
        yield f"- {name}: {commits}; {failed_now:,} requests failed, the audit found {faults:,} faults"
        yield from _warnings(name, side)
    yield from _other_facts(old, new)


def _warnings(name: str, side: Sequence[Result]) -> Iterator[str]:
    """The first warning of each kind, and of how many runs: they differ in figures only."""
    kinds: dict[str, list[str]] = {}
    for warning in (warning for result in side for warning in result.warnings):
        kinds.setdefault(re.sub(r"[0-9][0-9.,]*", "0", warning), []).append(warning)
    for first, *others in kinds.values():
        count = f" of {1 + len(others)} runs, such as" if others else ""
        yield f"- {name}, a warning{count}: {first}"


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


def _values(metric: Metric, results: Sequence[Result]) -> list[float | None]:
    """The value of each run; None also for a rate of 0."""
    return [metric.of(result) or None for result in results]


def _missing_share(values: Sequence[float | None]) -> float:
    """The share of runs without a value."""
    return values.count(None) / len(values)


def _known(values: Sequence[float | None]) -> str:
    """The median of the known values, and how many are missing."""
    known = [value for value in values if value]
    if not known:
        return "missing"
    few = f", missing in {len(values) - len(known)} of {len(values)}"
    return f"{median(known):,.1f}{few if len(known) < len(values) else ''}"


def _failed(route: str, results: Sequence[Result]) -> tuple[int, int]:
    rows = [row for result in results if (row := row_of(route, result))]
    return sum(row.failures for row in rows), sum(row.count for row in rows)


def _took_turns(old: Sequence[Result], new: Sequence[Result]) -> bool:
    """Whether of each two runs that followed one another, one is of either side."""
    runs = sorted([(r.started_at, 0) for r in old] + [(r.started_at, 1) for r in new])
    sides = [side for _, side in runs]
    are_distinct = len({at for at, _ in runs}) == len(runs)
    return are_distinct and all(a != b for a, b in zip(sides[::2], sides[1::2], strict=False))


def _by_time(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=attrgetter("started_at"))


def _logarithms(metric: Metric, results: Sequence[Result]) -> list[float]:
    """Of the value of each run, the greater the worse: noise is a share of a value."""
    return [metric.sign * math.log(value) for value in _values(metric, results) if value]


def _change(metric: Metric, before: list[float], after: list[float], shift: Shift) -> Change:
    low, high = sorted((metric.sign * shift.low, metric.sign * shift.high))
    return Change(
        metric,
        old=math.exp(metric.sign * median(before)),
        new=math.exp(metric.sign * median(after)),
        ratio=math.exp(metric.sign * shift.size),
        low=math.exp(low),
        high=math.exp(high),
        is_certain=shift.is_certain,
    )


def _spread_shift(
    metric: Metric, old: Sequence[Result], new: Sequence[Result], compared: int
) -> Shift:
    """The shift of a metric of a few runs, of which as many metrics are compared (Bonferroni)."""
    before, after = _logarithms(metric, old), _logarithms(metric, new)
    size = median(after) - median(before)
    if min(len(old), len(new)) >= MIN_SPREAD_RUNS:
        freedom = len(old) + len(new) - 2
        spreads = stdev(before), stdev(after)
    else:
        seconds = [_seconds(metric, side) for side in (old, new)]
        if min(map(len, seconds)) < MIN_SECONDS:
            return Shift(size, -math.inf, math.inf, False)
        freedom = sum(map(len, seconds)) - 2
        spreads = stdev(seconds[0]), stdev(seconds[1])
    error = math.hypot(spreads[0] / math.sqrt(len(old)), spreads[1] / math.sqrt(len(new)))
    half = _quantile(Z, freedom) * error
    certain = _quantile(NormalDist().inv_cdf(1 - MAX_P / compared), freedom) * error
    return Shift(size, size - half, size + half, size > certain)


def _seconds(metric: Metric, results: Sequence[Result]) -> list[float]:
    """The logarithms of the measured seconds of all runs. Neighbours are correlated: they are no samples."""
    of = metric.by_second
    return [
        math.log(value)
        for result in results
        for moment in result.timeline
        if result.window.from_s <= moment.at_s < result.window.to_s - 1
        if of and (value := of(moment))
    ]


def _quantile(normal: float, freedom: int) -> float:
    """The quantile of Student's t, by its expansion around that of the normal distribution."""
    z = normal
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _verdict(change: Change, tolerance: float) -> str:
    if change.regressed(tolerance):
        return REGRESSION
    if change.is_unknown:
        return "too few runs"
    if change.is_noise:
        return "noise"
    return "worse" if (change.ratio > 1) == (change.metric.sign > 0) else "better"
