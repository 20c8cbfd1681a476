"""Computes figures from the recorded requests: by route, by second, and by step of a `breakpoint` run.

Memory grows with the seconds of the run, not with its requests: a second's histogram is reduced to a Moment
once no more of its requests can arrive.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtest import recording
from loadtest.recording import FOLLOW, ROUTES, RecordedRequest
from loadtest.report.result import (
    Breakpoint,
    BreakpointStep,
    LatencyBucket,
    Level,
    Moment,
    RouteStatistics,
    Window,
)
from loadtest.run.hdr_log import Interval
from loadtest.run.histogram import Histogram
from loadtest.run.plan import Plan, Stage

MAX_LATENESS_SECONDS = 60  # after which no request of a second is expected any more
MIN_ANSWERED_SHARE = 0.95  # of a step's arrivals that must be answered within the step
EDGE_TOLERANCE = 2  # answers that may be missing because they cross an end of the step


@dataclass
class _Aggregate:
    """A group of requests."""

    times: Histogram = field(default_factory=Histogram)
    failures: int = 0
    unknown: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, request: RecordedRequest) -> None:
        self.times.add(request.micros)
        if request.failed:
            self.failures += 1
            self.unknown += request.status == 0 or request.status >= 500
            self.errors[str(request.status or "no answer")] += 1

    def statistics(self, name: str, seconds: float) -> RouteStatistics:
        count = self.times.count
        p50, p90, p95, p99, p999 = self.times.percentiles_ms(0.5, 0.9, 0.95, 0.99, 0.999)
        return RouteStatistics(
            name=name,
            count=count,
            rate=round(count / seconds, 2) if seconds else 0.0,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=self.times.max_ms,
            failures=self.failures,
            unknown=self.unknown,
            errors=dict(self.errors),
            p90_ms=p90,
            p999_ms=p999,
        )


class Statistics:
    """Reads the requests of a run as they are written, and computes its figures."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._source = recording.RequestReader(folder)
        self._plan = plan
        self._window = plan.window
        self._routes: defaultdict[int, _Aggregate] = defaultdict(_Aggregate)
        self._total = _Aggregate()
        self._open_seconds: defaultdict[int, _Aggregate] = defaultdict(_Aggregate)  # by second
        self._answers: Counter[int] = Counter()  # by the second of the answer
        self._closed_seconds: dict[int, Moment] = {}
        self._intervals: dict[int, Interval] = {}  # the latencies of the closed seconds
        self.newest_s = 0.0  # when the last request was due to begin
        self._steps = [
            _StepAggregate(begin, stage, plan.fewest_arrivals(stage.end, stage.seconds))
            for begin, stage in plan.timed()
            if stage.measured and plan.is_breakpoint
        ]
        held = [(begin, stage) for begin, stage in plan.timed() if stage.measured]
        several = len(held) > 1 and not self._steps
        self._levels = [(begin, stage, _Aggregate()) for begin, stage in held if several]

    def read(self) -> None:
        """Read the requests written since the last call."""
        for request in self._source.read_new():
            is_measured = self._window.from_s <= request.at_s < self._window.to_s
            if is_measured:
                self._routes[request.route].add(request)
            if request.route == FOLLOW:  # beside the planned load, so it is in no total
                continue
            self.newest_s = max(self.newest_s, request.at_s)
            self._open_seconds[int(request.at_s)].add(request)
            self._answers[int(request.at_s + request.micros / 1e6)] += 1
            if is_measured:
                self._total.add(request)
                for step in self._steps:
                    step.add(request)
                for begin, stage, aggregate in self._levels:
                    if begin <= request.at_s < begin + stage.seconds:
                        aggregate.add(request)
        newest = max(self._open_seconds, default=0)
        for second in [s for s in self._open_seconds if s < newest - MAX_LATENESS_SECONDS]:
            self._close(second)

    @property
    def seconds(self) -> int:
        """How many seconds of the run have requests."""
        return max([*self._open_seconds, *self._closed_seconds], default=-1) + 1

    def recent(self, seconds: int) -> RouteStatistics:
        """The requests that were due in the last whole seconds, for progress; `rate` counts answers."""
        recent, answered = _Aggregate(), 0
        for second in range(self.seconds - 1 - seconds, self.seconds - 1):
            answered += self._answers[second]
            if second in self._open_seconds:
                recent.times.merge(self._open_seconds[second].times)
                recent.failures += self._open_seconds[second].failures
        return replace(recent.statistics("", seconds), rate=answered / seconds)

    def routes(self, seconds: float) -> list[RouteStatistics]:
        """The figures of each route, in the order of `ROUTES`; `seconds` is the length of the window."""
        return [
            self._routes[route].statistics(ROUTES[route], seconds) for route in sorted(self._routes)
        ]

    def total(self, seconds: float) -> RouteStatistics:
        """The figures of all routes together, except for the streams that followers open."""
        return self._total.statistics("all", seconds)

    def latencies(self) -> list[LatencyBucket]:
        """How often all requests of the measured window took how long."""
        return self._total.times.buckets()

    def intervals(self, window: Window) -> list[Interval]:
        """The latencies of each second, oldest first, then those of each route in the measured window."""
        for second in list(self._open_seconds):
            self._close(second)
        routes = (
            self._routes[route].times.interval(
                ROUTES[route], window.from_s, window.to_s - window.from_s
            )
            for route in sorted(self._routes)
        )
        return [*(interval for _, interval in sorted(self._intervals.items())), *routes]

    def levels(self, seconds: float) -> list[Level]:
        """Each level that began within the first `seconds`; empty for a profile with a single level."""
        found = []
        for begin, stage, aggregate in self._levels:
            end = min(begin + stage.seconds, seconds)
            if end > begin:
                requests = aggregate.statistics("all", end - begin)
                found.append(
                    Level(
                        level=round(stage.end, 2),
                        from_s=round(begin, 2),
                        to_s=round(end, 2),
                        requests=requests,
                    )
                )
        return found

    def timeline(self) -> list[Moment]:
        """The figures of each second, oldest first."""
        for second in list(self._open_seconds):
            self._close(second)
        return [
            self._closed_seconds.get(s, self._moment(s, _Aggregate())) for s in range(self.seconds)
        ]

    def breakpoint(self, seconds: float, max_p99_ms: float, max_errors: float) -> Breakpoint:
        """The steps that ended within `seconds`, and the highest that held before two in a row did not."""
        steps = [
            step.evaluate(max_p99_ms, max_errors) for step in self._steps if step.end <= seconds
        ]
        carried = None
        for place, step in enumerate(steps):
            if step.held:
                carried = step
            elif not any(later.held for later in steps[place + 1 : place + 2]):
                break
        return Breakpoint(
            level=carried.level if carried else None,
            rate=carried.rate if carried else None,
            steps=steps,
            max_p99_ms=max_p99_ms,
            max_errors=max_errors,
        )

    def _close(self, second: int) -> None:
        aggregate = self._open_seconds.pop(second)
        self._closed_seconds[second] = self._moment(second, aggregate)
        self._intervals[second] = aggregate.times.interval("", second, 1)

    def _moment(self, second: int, aggregate: _Aggregate) -> Moment:
        found = aggregate.statistics("", 1)
        return Moment(
            at_s=second,
            level=round(self._plan.level(second + 0.5), 2),
            rate=float(self._answers[second]),
            failures=found.failures,
            p50_ms=found.p50_ms,
            p95_ms=found.p95_ms,
            p99_ms=found.p99_ms,
            max_ms=found.max_ms,
        )


class _StepAggregate:
    """One level of a `breakpoint` run."""

    def __init__(self, begin: float, stage: Stage, fewest_arrivals: float) -> None:
        self.begin, self.end = begin, begin + stage.seconds
        self._fewest_arrivals = fewest_arrivals
        self._level = stage.end
        self._aggregate = _Aggregate()
        self._answers = 0  # answers that came within the step

    def add(self, request: RecordedRequest) -> None:
        if self.begin <= request.at_s < self.end:
            self._aggregate.add(request)
        if self.begin <= request.at_s + request.micros / 1e6 < self.end:
            self._answers += 1

    def evaluate(self, max_p99_ms: float, max_errors: float) -> BreakpointStep:
        seconds = self.end - self.begin
        found = self._aggregate.statistics("", seconds)
        rate = round(self._answers / seconds, 2)
        behind = self._answers < MIN_ANSWERED_SHARE * self._fewest_arrivals - EDGE_TOLERANCE
        missed = [
            why
            for why, is_so in (
                ("answers fall behind", behind),
                ("p99", found.p99_ms is None or found.p99_ms > max_p99_ms),
                ("errors", found.error_share > max_errors),
            )
            if is_so
        ]
        return BreakpointStep(
            level=round(self._level, 2),
            rate=rate,
            p99_ms=found.p99_ms,
            error_share=found.error_share,
            held=not missed,
            why=", ".join(missed),
        )
