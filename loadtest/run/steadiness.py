"""Whether a run was steady, from when on, and how much its values have drifted.

The begin is cut off by MSER (White 1997): of all cuts in the first half, the one after which the mean has the
smallest standard error. Whether a trend remains is decided by the Mann-Kendall test, on means of blocks,
because neighbouring seconds are correlated; its size is the Theil-Sen slope. Both judge ranks or medians, so
that single outliers count little. Latencies are judged by their logarithms.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import NormalDist, fmean, median, pvariance

from loadtest.report.result import LoadModel, Moment, Trend, Window

MIN_SECONDS = 24  # of a window; a shorter one says nothing
BLOCKS = 12  # at most, for the test; at 1 % it has the power to see a rise over the whole run
MAX_POINTS = (
    100  # of a series; a longer one is averaged, so that an hour costs as little as a minute
)
MAX_P = 0.01
TINY = 1e-3  # added to each value, since 0 has no logarithm
LATE_CUT = 0.35  # of the series
LEFT_SLOPE = 0.5  # of that of the whole series, behind the cut
MIN_CHANGE = 0.1  # a trend that changes less than this share over the window is none

Metric = tuple[str, Callable[[Moment], float | None]]
RATE: Metric = ("rate", lambda moment: moment.rate)
TIMES: tuple[Metric, ...] = (
    ("p50", lambda moment: moment.p50_ms),
    ("p99", lambda moment: moment.p99_ms),
    ("answer to stored", lambda moment: moment.stored_ms),
)
MEMORY: Metric = ("memory", lambda moment: moment.memory_servers_mb)


def trends(timeline: Sequence[Moment], window: Window, model: LoadModel) -> list[Trend]:
    """The trend of each value that the measured seconds have; empty if they are fewer than MIN_SECONDS.

    In the open model the rate is planned, so it says nothing.
    """
    measured = [moment for moment in timeline if window.from_s <= moment.at_s < window.to_s]
    metrics = [*([RATE] if model is LoadModel.CLOSED else []), *TIMES, MEMORY]
    series = (
        (name, [(m.at_s, v) for m in measured if (v := of(m)) is not None]) for name, of in metrics
    )
    return [_trend(name, points) for name, points in series if len(points) >= MIN_SECONDS]


def _trend(name: str, points: Sequence[tuple[float, float]]) -> Trend:
    size = math.ceil(len(points) / MAX_POINTS)
    averaged = [
        (
            points[place][0],
            fmean(math.log(value + TINY) for _, value in points[place : place + size]),
        )
        for place in range(0, len(points) - size + 1, size)
    ]
    values = [value for _, value in averaged]
    cut = _cut(values)
    rest = values[cut:]
    if _has_trend(values):
        # A climb goes on behind the cut; what was only a slow begin does not.
        is_steady = cut < LATE_CUT * len(values) and _slope(rest) / _slope(values) < LEFT_SLOPE
    else:
        is_steady = True
        if not cut or abs(math.expm1(fmean(values[:cut]) - fmean(rest))) < MIN_CHANGE:
            cut, rest = 0, values
    change = math.expm1(_slope(rest if is_steady else values) * len(rest if is_steady else values))
    return Trend(name, averaged[cut][0] if is_steady else None, round(change, 4))


def _has_trend(values: Sequence[float]) -> bool:
    change = math.expm1(_slope(values) * len(values))
    return abs(change) >= MIN_CHANGE and _p_value(_means(values, BLOCKS)) <= MAX_P


def _cut(values: Sequence[float]) -> int:
    """How many values to cut off at the begin, by MSER."""
    count = len(values)
    return min(range(count // 2), key=lambda cut: pvariance(values[cut:]) / (count - cut))


def _means(values: Sequence[float], blocks: int) -> list[float]:
    """The means of blocks of equal length; what is left over at the begin is left out."""
    size = max(1, len(values) // blocks)
    begin = len(values) % size
    return [fmean(values[place : place + size]) for place in range(begin, len(values), size)]


def _slope(values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of values (Theil-Sen)."""
    pairs = combinations(enumerate(values), 2)
    return median((y - x) / (j - i) for (i, x), (j, y) in pairs)


def _p_value(values: Sequence[float]) -> float:
    """How probable a trend like this is by chance: the Mann-Kendall test, two-sided."""
    count = len(values)
    score = sum((y > x) - (y < x) for x, y in combinations(values, 2))
    if not score:
        return 1.0
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return 2 * (1 - NormalDist().cdf((abs(score) - 1) / deviation))
