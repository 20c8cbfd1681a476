"""The values of a run that comparisons and histories look at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from loadtest.report.result import Moment, Result, RouteStatistics

ALL = "all"  # the name of the row for all routes together
SERVERS = "servers"  # of a private installation, with its engines
MIN_SAMPLES = {50: 1, 95: 20, 99: 100}  # of which at least one is beyond the percentile


@dataclass(frozen=True)
class Metric:
    """A value of a run. `sign` is 1 if a higher value is worse, else -1.

    `by_second` is None if the seconds of a run do not have the value.
    """

    of_what: str
    name: str
    of: Callable[[Result], float | None]
    sign: int
    by_second: Callable[[Moment], float | None] | None = None

    @property
    def title(self) -> str:
        """Its name, with what it is of unless that is all requests."""
        return self.name if self.of_what == ALL else f"{self.of_what}: {self.name}"


def row_of(route: str, result: Result) -> RouteStatistics | None:
    """The requests of a route, or of all; None if the run had none of that route."""
    if route == ALL:
        return result.total
    return next((row for row in result.requests if row.name == route), None)


def route_metrics(route: str) -> dict[int, Metric]:
    """The percentiles of a route, by their shares."""
    return {share: _route_metric(route, f"p{share} ms", f"p{share}_ms", 1) for share in MIN_SAMPLES}


def _route_metric(route: str, name: str, field: str, sign: int) -> Metric:
    def of(result: Result) -> float | None:
        return getattr(row_of(route, result), field, None)

    # The seconds of a run are not divided by route. Those of all routes vary about as much.
    return Metric(route, name, of, sign, attrgetter(field))


def lag_metrics(until: str) -> dict[int, Metric]:
    """The percentiles of a lag, by their shares."""
    return {share: _lag_metric(until, share) for share in MIN_SAMPLES}


def _lag_metric(until: str, share: int) -> Metric:
    def of(result: Result) -> float | None:
        return getattr(getattr(result.lag_ms, until), f"p{share}", None)

    # A second has too few samples for other percentiles than the median.
    by_second = attrgetter(f"{until}_ms") if share == 50 else None
    return Metric(f"answer to {until}", f"p{share} ms", of, 1, by_second)


def _cost(result: Result) -> float | None:
    servers, rate = result.cpu.servers, result.total.rate
    return 1000 * servers / rate if servers and rate else None


def _cost_by_second(moment: Moment) -> float | None:
    servers = moment.cpu_servers
    return 1000 * servers / moment.rate if servers and moment.rate else None


def _carried(result: Result) -> float | None:
    return result.breakpoint.level if result.breakpoint else None


MEDIAN = (ALL, "p50 ms")
"""Of what the value is that moves if most requests become slower, and its name."""

# The rate of a single route follows from the scenario.
RATE = _route_metric(ALL, "rate/s", "rate", -1)
COST = Metric(SERVERS, "processor ms/request", _cost, 1, _cost_by_second)
MEMORY = Metric(
    SERVERS,
    "memory MB",
    lambda result: result.memory_mb.servers,
    1,
    attrgetter("memory_servers_mb"),
)
CARRIED = Metric("breakpoint", "carried/s", _carried, -1)
HISTORY = (
    *(RATE, route_metrics(ALL)[50], route_metrics(ALL)[99]),
    *(lag_metrics(until)[50] for until in ("stored", "searchable")),
    *(COST, MEMORY),
)
"""The values whose history is looked at."""


def metrics_of(results: Sequence[Result]) -> Iterator[Metric]:
    """Every value that some of the runs have; percentiles only if all runs have enough samples for them."""
    for route in routes_of(results):
        if route == ALL:
            yield RATE
        rows = [row for result in results if (row := row_of(route, result))]
        yield from _measurable(route_metrics(route), [row.count for row in rows])
    lags: dict[str, list[int]] = {}
    for result in results:
        for until, spread in result.lag_ms.items():
            lags.setdefault(until, []).append(spread.samples)
    for until, samples in lags.items():
        yield from _measurable(lag_metrics(until), samples)
    yield from (COST, MEMORY, CARRIED)


def _measurable(percentiles: dict[int, Metric], samples: Sequence[int]) -> Iterator[Metric]:
    """Those for which every run has enough samples, but for runs without any: what they lack is reported."""
    fewest = min((count for count in samples if count), default=0)
    return (metric for share, metric in percentiles.items() if fewest >= MIN_SAMPLES[share])


def routes_of(results: Sequence[Result]) -> list[str]:
    """The routes of the runs, then all of them together."""
    return [*dict.fromkeys(row.name for result in results for row in result.requests), ALL]
