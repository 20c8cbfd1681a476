"""From recorded requests to figures: by route, by second, by step of a `breakpoint` run.

Memory grows by a line a second, not with the requests: the second's histogram goes once nothing can come
late any more.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtest import recording
from loadtest.recording import ROUTES, Request
from loadtest.report.result import Breakpoint, Level, Moment, RouteStatistics, Step
from loadtest.run.histogram import Histogram
from loadtest.run.plan import Plan, Stage

MAX_LATENESS_SECONDS = 60  # after which nothing more is expected of a second
MIN_ANSWERED_SHARE = 0.95  # of a step's arrivals have to be answered within it,
EDGE_TOLERANCE = 2  # give or take so many answers: those that cross its ends


@dataclass
class _Aggregate:
    """Requests that are looked at together."""

    times: Histogram = field(default_factory=Histogram)
    failures: int = 0
    unknown: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, request: Request) -> None:
        self.times.add(request.micros)
        if request.failed:
            self.failures += 1
            self.unknown += request.status == 0 or request.status >= 500
            self.errors[str(request.status or "no answer")] += 1

    def statistics(self, name: str, seconds: float) -> RouteStatistics:
        count = self.times.count
        p50, p95, p99 = self.times.percentiles_ms(0.5, 0.95, 0.99)
        return RouteStatistics(
            name,
            count,
            round(count / seconds, 2) if seconds else 0.0,
            p50,
            p95,
            p99,
            self.times.max_ms,
            self.failures,
            self.unknown,
            dict(self.errors),
        )


class Statistics:
    """Reads a run's requests as they are written."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._source = recording.RequestReader(folder)
        self._plan = plan
        self._window = plan.window
        self._routes: defaultdict[int, _Aggregate] = defaultdict(_Aggregate)
        self._total = _Aggregate()
        self._open_seconds: defaultdict[int, _Aggregate] = defaultdict(_Aggregate)  # by second
        self._answers: Counter[int] = Counter()  # by the second of the answer
        self._closed_seconds: dict[int, Moment] = {}
        self.newest_s = 0.0  # when the last request began, or was to
        self._steps = [
            _StepAggregate(begin, stage)
            for begin, stage in plan.timed()
            if stage.measured and plan.profile == "breakpoint"
        ]
        held = [(begin, stage) for begin, stage in plan.timed() if stage.measured]
        several = len(held) > 1 and not self._steps
        self._levels = [(begin, stage, _Aggregate()) for begin, stage in held if several]

    def read(self) -> None:
        """Take in what was written since the last time."""
        for request in self._source.read_new():
            self.newest_s = max(self.newest_s, request.at_s)
            self._open_seconds[int(request.at_s)].add(request)
            self._answers[int(request.at_s + request.micros / 1e6)] += 1
            if self._window.from_s <= request.at_s < self._window.to_s:
                self._routes[request.route].add(request)
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
        """How far the run has come."""
        return max([*self._open_seconds, *self._closed_seconds], default=-1) + 1

    def recent(self, seconds: int) -> RouteStatistics:
        """All requests that were due in the last whole seconds, for progress; the rate is of the answers."""
        recent, answered = _Aggregate(), 0
        for second in range(self.seconds - 1 - seconds, self.seconds - 1):
            answered += self._answers[second]
            if second in self._open_seconds:
                recent.times.merge(self._open_seconds[second].times)
                recent.failures += self._open_seconds[second].failures
        return replace(recent.statistics("", seconds), rate=answered / seconds)

    def routes(self, seconds: float) -> list[RouteStatistics]:
        """By route, in the order of `ROUTES`; `seconds` is how much of the window was run."""
        return [
            self._routes[route].statistics(ROUTES[route], seconds) for route in sorted(self._routes)
        ]

    def total(self, seconds: float) -> RouteStatistics:
        """All routes together."""
        return self._total.statistics("all", seconds)

    def levels(self, seconds: float) -> list[Level]:
        """Each level that a run of so many seconds has come to; none of a profile that has but one."""
        found = []
        for begin, stage, aggregate in self._levels:
            end = min(begin + stage.seconds, seconds)
            if end > begin:
                requests = aggregate.statistics("all", end - begin)
                found.append(Level(round(stage.end, 2), round(begin, 2), round(end, 2), requests))
        return found

    def timeline(self) -> list[Moment]:
        """Each second, oldest first."""
        for second in list(self._open_seconds):
            self._close(second)
        return [
            self._closed_seconds.get(s, self._moment(s, _Aggregate())) for s in range(self.seconds)
        ]

    def breakpoint(self, seconds: float, max_p99_ms: float, max_errors: float) -> Breakpoint:
        """The steps that are over, and the highest before the first two that did not hold."""
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
            carried.level if carried else None,
            carried.rate if carried else None,
            steps,
            max_p99_ms,
            max_errors,
        )

    def _close(self, second: int) -> None:
        self._closed_seconds[second] = self._moment(second, self._open_seconds.pop(second))

    def _moment(self, second: int, aggregate: _Aggregate) -> Moment:
        found = aggregate.statistics("", 1)
        return Moment(
            second,
            round(self._plan.level(second + 0.5), 2),
            float(self._answers[second]),
            found.failures,
            found.p50_ms,
            found.p95_ms,
            found.p99_ms,
            found.max_ms,
        )


class _StepAggregate:
    """One level of a `breakpoint` run."""

    def __init__(self, begin: float, stage: Stage) -> None:
        self.begin, self.end = begin, begin + stage.seconds
        self._level = stage.end
        self._aggregate = _Aggregate()
        self._answers = 0  # within the step itself

    def add(self, request: Request) -> None:
        if self.begin <= request.at_s < self.end:
            self._aggregate.add(request)
        if self.begin <= request.at_s + request.micros / 1e6 < self.end:
            self._answers += 1

    def evaluate(self, max_p99_ms: float, max_errors: float) -> Step:
        seconds = self.end - self.begin
        found = self._aggregate.statistics("", seconds)
        rate = round(self._answers / seconds, 2)
        behind = self._answers < MIN_ANSWERED_SHARE * self._level * seconds - EDGE_TOLERANCE
        missed = [
            why
            for why, is_so in (
                ("answers fall behind", behind),
                ("p99", found.p99_ms is None or found.p99_ms > max_p99_ms),
                ("errors", found.error_share > max_errors),
            )
            if is_so
        ]
        return Step(
            round(self._level, 2),
            rate,
            found.p99_ms,
            found.error_share,
            not missed,
            ", ".join(missed),
        )
