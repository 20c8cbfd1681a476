"""Change points in the results of many runs: from which run on a value is another one.

A series is split where the means of both sides differ most for their spread. Whether that is more than chance
is decided by a permutation test of this greatest difference, as in E-divisive (Matteson and James 2014), with
Student's t instead of energy statistics. Both parts are then split in the same way. Values are compared by
their logarithms, because their noise is a share of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from statistics import fmean

from loadtest.report.metrics import HISTORY, Metric
from loadtest.report.result import Result

COMMITTED = "committed"
"""The fact of when the measured commit was made, as RFC 3339 in UTC: its runs are then ordered by that."""

MIN_RUNS = 3  # on each side of a change point
MIN_CHANGE = 0.02  # a smaller change is not worth reporting
PERMUTATIONS = 999
MAX_P = 0.01  # so that few of the series of one history have a false change point


@dataclass(frozen=True)
class ChangePoint:
    """The first run with another value, and the geometric means before and since then."""

    metric: str
    result: Result
    before: float
    since: float
    is_worse: bool

    @property
    def change(self) -> float:
        """The share by which the value has changed."""
        return self.since / self.before - 1


@dataclass(frozen=True)
class Series:
    """The values of one metric over equal loads, oldest first, and where they have changed."""

    load: str
    metric: Metric
    results: list[Result]
    values: list[float]
    points: list[int]  # the place of the first run of each part but the first one

    @property
    def change_points(self) -> Iterator[ChangePoint]:
        """What the points mean, oldest first."""
        ends = [*self.points[1:], len(self.values)]
        begins = [0, *self.points]
        for begin, point, end in zip(begins, self.points, ends, strict=False):
            before, since = _mean(self.values[begin:point]), _mean(self.values[point:end])
            is_worse = (since - before) * self.metric.sign > 0
            yield ChangePoint(self.metric.title, self.results[point], before, since, is_worse)

    @property
    def levels(self) -> list[float]:
        """For each run the mean of the part to which it belongs."""
        parts = pairwise([0, *self.points, len(self.values)])
        return [
            mean for begin, end in parts for mean in [_mean(self.values[begin:end])] * (end - begin)
        ]


def history(results: Sequence[Result]) -> list[Series]:
    """The series of each load; interrupted and aborted runs are left out.

    Runs have an equal load if scenario, profile, model, users, rate, length, chats and preload are equal.
    They are ordered by the time of their commits if that is known, or else by their own.
    """
    by_load: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: (happened_at(result), result.started_at)):
        if not (result.interrupted or result.aborted):
            by_load.setdefault(_load(result), []).append(result)
    return [_series(load, metric, runs) for load, runs in by_load.items() for metric in HISTORY]


def happened_at(result: Result) -> str:
    """When the measured commit was made, or else when the run began."""
    return result.facts.get(COMMITTED, result.started_at)


def change_points(values: Sequence[float]) -> list[int]:
    """The places at which a series of positive values changes, ascending."""
    return sorted(_split([math.log(value) for value in values], 0, Random("history")))


def _series(load: str, metric: Metric, runs: Sequence[Result]) -> Series:
    known = [(result, value) for result in runs if (value := metric.of(result))]
    values = [value for _, value in known]
    return Series(load, metric, [result for result, _ in known], values, change_points(values))


def _load(result: Result) -> str:
    level = f"{result.rate:g} arrivals/s" if result.rate else f"{result.users:,} users"
    spacing = "" if result.arrivals in (None, "uniform") else f" {result.arrivals}"
    seconds = result.planned_s or result.duration_s
    chats = "" if result.chats is None else f", {result.chats:,} chats"
    preload = f", preload {result.preload:,}" if result.preload else ""
    return f"{result.scenario}, {result.profile}: {level}{spacing}, {seconds:g} s{chats}{preload}"


def _mean(values: Sequence[float]) -> float:
    return math.exp(fmean(map(math.log, values)))


def _split(values: list[float], offset: int, rng: Random) -> Iterator[int]:
    best, place = _greatest(values)
    if not place:
        return
    change = abs(math.expm1(fmean(values[place:]) - fmean(values[:place])))
    if change < MIN_CHANGE or _is_chance(values, best, rng):
        return
    yield offset + place
    yield from _split(values[:place], offset, rng)
    yield from _split(values[place:], offset + place, rng)


def _greatest(values: Sequence[float]) -> tuple[float, int]:
    """The greatest t between the parts of all splits, and its place; place 0 if the series is too short."""
    count = len(values)
    center = fmean(values) if values else 0.0  # keeps the sums of squares small, and so exact
    sums = list(accumulate(value - center for value in values))
    squares = list(accumulate((value - center) ** 2 for value in values))
    best, place = 0.0, 0
    for split in range(MIN_RUNS, count - MIN_RUNS + 1):
        left, right = sums[split - 1], sums[-1] - sums[split - 1]
        rest = count - split
        spread = squares[-1] - left**2 / split - right**2 / rest
        deviation = math.sqrt(max(spread, 1e-12) / (count - 2) * (1 / split + 1 / rest))
        t = abs(left / split - right / rest) / deviation
        if t > best:
            best, place = t, split
    return best, place


def _is_chance(values: Sequence[float], best: float, rng: Random) -> bool:
    """Whether more than MAX_P of random orders of the values have a t that is as great."""
    shuffled, as_great = list(values), 1
    for _ in range(PERMUTATIONS):
        rng.shuffle(shuffled)
        as_great += _greatest(shuffled)[0] >= best
        if as_great > MAX_P * (PERMUTATIONS + 1):
            return True
    return False
