"""Measuring: two ways to do the same take turns, so that both meet the same noise."""

import cProfile
import gc
import pstats
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from time import perf_counter

PROFILE_LINES = 12


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: `run` is timed; `before` and `after` it, what makes it possible and undoes it.

    `amount` is how many of `things` one `run` takes; without it the time counts instead of the rate.
    `explain` says where the time goes, for what a profile of this process would not show.
    """

    name: str
    run: Callable[[], object]
    amount: int | None = None
    things: str = "messages"
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing
    explain: Callable[[], str] | None = None

    @property
    def unit(self) -> str:
        """Of what `measure` returns."""
        return "ms" if self.amount is None else f"{self.things}/s"

    def measure(self) -> float:
        """Run it once; returns its rate, or the milliseconds it took."""
        self.before()
        gc.collect()  # or one would pay for what the other left
        gc.freeze()  # or both would pay for the walks of all that the benchmarks hold
        try:
            since = perf_counter()
            self.run()
            took = perf_counter() - since
        finally:
            gc.unfreeze()
            self.after()
        return took * 1000 if self.amount is None else self.amount / took

    def profile(self) -> str:
        """Where the time of one run goes, its largest parts first."""
        if self.explain:
            return self.explain()
        profile = cProfile.Profile()
        self.before()
        try:
            profile.runcall(self.run)
        finally:
            self.after()
        return largest_parts(profile)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio has to be, and what we would like it to be; at least, or `at_most`."""

    must: float
    aim: float | None = None
    at_most: bool = False

    def is_reached(self, ratio: float, bar: float) -> bool:
        """Whether a ratio is on the right side of a bar."""
        return ratio <= bar if self.at_most else ratio >= bar


class Verdict(StrEnum):
    """What came of a goal."""

    MET = "met"
    AIM_MISSED = "aim missed"
    MISSED = "missed"
    INFORMATION = "for information"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the pairs that were measured, ours and the rival's, and what they mean."""

    what: str
    configuration: str
    ours: str
    baseline: str
    unit: str
    pairs: Sequence[tuple[float, float]]
    goal: Goal | None = None
    profile: str = ""  # where our time goes; only of what missed its goal

    @property
    def title(self) -> str:
        """What it is about, in words."""
        return f"{self.what}, against {self.baseline}"

    @property
    def ratios(self) -> list[float]:
        """Ours to the rival's, pair by pair, the smallest first."""
        return sorted(ours / baseline for ours, baseline in self.pairs)

    @property
    def ratio(self) -> float:
        """The median of the pairs: what counts."""
        return median(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        """Ours and the rival's, each by itself."""
        ours, baselines = zip(*self.pairs, strict=True)
        return median(ours), median(baselines)

    @property
    def verdict(self) -> Verdict:
        """Whether the goal was reached."""
        if self.goal is None:
            return Verdict.INFORMATION
        if not self.goal.is_reached(self.ratio, self.goal.must):
            return Verdict.MISSED
        if self.goal.aim is not None and not self.goal.is_reached(self.ratio, self.goal.aim):
            return Verdict.AIM_MISSED
        return Verdict.MET


def run_pairs(
    what: str,
    configuration: str,
    ours: Side,
    baseline: Side,
    *,
    pairs: int,
    goal: Goal | None = None,
) -> Row:
    """Measure both in turn, so many times each, after a turn that does not count."""
    ours.measure()
    baseline.measure()
    measured = [(ours.measure(), baseline.measure()) for _ in range(pairs)]
    row = Row(what, configuration, ours.name, baseline.name, ours.unit, measured, goal)
    if row.verdict in (Verdict.MET, Verdict.INFORMATION):
        return row
    return Row(
        what, configuration, ours.name, baseline.name, ours.unit, measured, goal, ours.profile()
    )


def largest_parts(profile: cProfile.Profile) -> str:
    """The parts of a profile that took the most time, as a table."""
    stats = pstats.Stats(profile)
    entries = sorted(
        ((own, calls, place) for place, (_, calls, own, _, _) in _entries(stats).items()),
        reverse=True,
    )
    total = sum(own for own, _, _ in entries)
    lines = ["share  seconds    calls  function"]
    for own, calls, (file, line, function) in entries[:PROFILE_LINES]:
        where = function if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
        lines.append(f"{own / total:5.0%}  {own:7.3f}  {calls:7,}  {where}")
    return "\n".join(lines)


_Place = tuple[str, int, str]


def _entries(stats: pstats.Stats) -> dict[_Place, tuple[int, int, float, float, object]]:
    return stats.stats  # type: ignore[attr-defined, no-any-return]  # missing in typeshed
