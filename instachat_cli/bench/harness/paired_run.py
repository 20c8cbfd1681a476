"""Paired runs: two ways to do the same take turns, so that noise affects both alike."""

import cProfile
import gc
import pstats
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from time import perf_counter

PROFILE_LINES = 12


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair. `run` is timed; `before` and `after` prepare and undo it, untimed.

    `amount` is the number of `things` that one `run` processes, for a rate; without it the time is measured.
    `explain` reports where the time goes if a profile of this process would not show it.
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
        """The unit of what `measure` returns."""
        return "ms" if self.amount is None else f"{self.things}/s"

    def measure(self) -> float:
        """Run it once; returns the rate per second, or the time in milliseconds."""
        self.before()
        gc.collect()  # otherwise one side would collect the other's garbage
        gc.freeze()  # otherwise both would traverse all objects of the benchmarks
        try:
            since = perf_counter()
            self.run()
            took = perf_counter() - since
        finally:
            gc.unfreeze()
            self.after()
        return took * 1000 if self.amount is None else self.amount / took

    def profile(self) -> str:
        """A profile of one run, its largest parts first."""
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
    """The value that a ratio must reach, and one that it should; minimums, or maximums if `at_most`."""

    must: float
    aim: float | None = None
    at_most: bool = False

    def is_reached(self, ratio: float, bar: float) -> bool:
        """Whether a ratio reaches a bar."""
        return ratio <= bar if self.at_most else ratio >= bar


class Verdict(StrEnum):
    """Whether a goal was reached."""

    MET = "met"
    AIM_MISSED = "aim missed"
    MISSED = "missed"
    INFORMATION = "for information"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the measured pairs, ours and the baseline's, and the goal."""

    what: str
    configuration: str
    ours: str
    baseline: str
    unit: str
    pairs: Sequence[tuple[float, float]]
    goal: Goal | None = None
    profile: str = ""  # a profile of our side, if it missed its goal

    @property
    def title(self) -> str:
        """What is compared, in words."""
        return f"{self.what}, against {self.baseline}"

    @property
    def ratios(self) -> list[float]:
        """Ours divided by the baseline's for each pair, in ascending order."""
        return sorted(ours / baseline for ours, baseline in self.pairs)

    @property
    def ratio(self) -> float:
        """The median of the ratios, which decides the verdict."""
        return median(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        """The median of ours, and the baseline's."""
        ours, baselines = zip(*self.pairs, strict=True)
        return median(ours), median(baselines)

    @property
    def needs_no_profile(self) -> bool:
        """Whether the goal was reached, or there is none."""
        return self.verdict in (Verdict.MET, Verdict.INFORMATION)

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
    """Measure both sides in turn, `pairs` times each, after one unmeasured turn."""
    ours.measure()
    baseline.measure()
    measured = [(ours.measure(), baseline.measure()) for _ in range(pairs)]
    row = Row(what, configuration, ours.name, baseline.name, ours.unit, measured, goal)
    return row if row.needs_no_profile else replace(row, profile=ours.profile())


def largest_parts(profile: cProfile.Profile) -> str:
    """The functions that took the most time, as a table."""
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
