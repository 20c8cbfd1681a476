"""The plan of a run: its model, its levels over time, and the named profiles.

A level is a number of users (closed model) or of arrivals a second (open model). Arrivals are fixed in
advance. They do not depend on how fast the server answers; that makes the model open.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.report.result import LoadModel, Window
from loadtest.run.arrivals import Spacing
from loadtest.run.choices import Profile, Scenario

STEP_FACTOR = 1.25  # from one level of `breakpoint` to the next
MAX_STEPS = 24  # of `breakpoint`
MIN_STEP_SECONDS = 2.0
WARM_UP_SHARE = 0.3  # of a step; its figures count after that
FIRST_RATE = 50.0  # of `breakpoint` without --rate
MAX_CONCURRENT_REQUESTS = 500  # of the open model without --users


@dataclass(frozen=True)
class Stage:
    """A period in which the level changes linearly from `begin` to `end`."""

    seconds: float
    begin: float
    end: float
    measured: bool = True  # whether it belongs to the measured window

    def level(self, at: float) -> float:
        """The level `at` seconds after the stage began."""
        return self.begin + (self.end - self.begin) * at / self.seconds

    def arrivals(self, at: float) -> float:
        """The number of arrivals in the first `at` seconds of the stage."""
        return self.begin * at + (self.end - self.begin) * at * at / (2 * self.seconds)

    def time_of(self, arrivals: float) -> float:
        """The second of the stage at which that many have arrived: the inverse of `arrivals`."""
        slope = (self.end - self.begin) / self.seconds
        if not slope:
            return arrivals / self.begin if self.begin else math.inf
        return (math.sqrt(max(self.begin**2 + 2 * slope * arrivals, 0)) - self.begin) / slope


@dataclass(frozen=True)
class Plan:
    """A run, as the processes of its generator receive it."""

    scenario: str
    profile: str
    model: LoadModel
    seed: int
    users: int  # the highest number; in the open model: the most requests under way at once
    stages: list[Stage]
    chats: int | None = None  # None: as many as the scenario has
    spacing: str = "uniform"  # of the arrivals, as `Spacing.parse` reads it

    @property
    def is_breakpoint(self) -> bool:
        """Whether it searches for the highest level that the server can serve."""
        return self.profile == Profile.BREAKPOINT

    @property
    def seconds(self) -> float:
        """Its length."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def highest(self) -> float:
        """The highest level."""
        return max(max(stage.begin, stage.end) for stage in self.stages)

    @property
    def window(self) -> Window:
        """From the begin of the first measured stage to the end of the last one."""
        begins = [(begin, begin + stage.seconds) for begin, stage in self.timed() if stage.measured]
        return Window(begins[0][0], begins[-1][1]) if begins else Window(0, self.seconds)

    def timed(self) -> Iterator[tuple[float, Stage]]:
        """Each stage with the second at which it begins."""
        begin = 0.0
        for stage in self.stages:
            yield begin, stage
            begin += stage.seconds

    def level(self, at: float) -> float:
        """The level at a second of the run; 0 after its end."""
        for begin, stage in self.timed():
            if at < begin + stage.seconds:
                return stage.level(max(at - begin, 0))
        return 0.0

    def arrivals(self, process: int, processes: int) -> Iterator[tuple[int, float]]:
        """Number and second of each arrival of one process; `process` counts from 0."""
        times = enumerate(Spacing.parse(self.spacing).times(self.seed))
        number, at = next(times)
        before = 0.0
        for begin, stage in self.timed():
            until = before + stage.arrivals(stage.seconds)
            while at < until:
                if number % processes == process:
                    yield number, begin + stage.time_of(at - before)
                number, at = next(times)
            before = until

    def fewest_arrivals(self, level: float, seconds: float) -> float:
        """How many arrivals a time of this mean level has at the fewest, by three standard deviations."""
        mean = level * seconds
        return mean - 3 * math.sqrt(Spacing.parse(self.spacing).variation * mean)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """The plan that `to_json` has written."""
        stages = [Stage(**stage) for stage in data["stages"]]
        return cls(**{**data, "model": LoadModel(data["model"]), "stages": stages})


@dataclass(frozen=True)
class ProfileDefinition:
    """The shape of a load, and its default size."""

    about: str
    users: int
    seconds: float
    ramp: float  # seconds of ramp-up, at most a third of the run; not measured
    levels: list[float] = field(default_factory=lambda: [1.0])
    """Shares of the highest level; each is held for the same time."""

    def stages(self, highest: float, seconds: float) -> list[Stage]:
        """Ramp up to the first level, then hold each level."""
        ramp = min(self.ramp, seconds / 3)
        first = highest * self.levels[0]
        held = (seconds - ramp) / len(self.levels)
        up = [Stage(ramp, min(1.0, first), first, measured=False)] if ramp else []
        return [*up, *(Stage(held, highest * share, highest * share) for share in self.levels)]


PROFILES: dict[Profile, ProfileDefinition] = {
    Profile.SMOKE: ProfileDefinition("does it work at all", users=5, seconds=10, ramp=2),
    Profile.LOAD: ProfileDefinition("an ordinary busy hour", users=50, seconds=60, ramp=10),
    Profile.STRESS: ProfileDefinition(
        "more and more", users=200, seconds=90, ramp=10, levels=[0.25, 0.5, 0.75, 1.0]
    ),
    Profile.SOAK: ProfileDefinition("for long", users=50, seconds=3_600, ramp=30),
    Profile.SPIKE: ProfileDefinition(
        "a sudden crowd", users=200, seconds=60, ramp=5, levels=[0.1, 1.0, 0.1]
    ),
    Profile.BREAKPOINT: ProfileDefinition(
        "up until it no longer holds", users=500, seconds=120, ramp=5
    ),
}


def plan(
    scenario: Scenario,
    profile: Profile,
    seed: int,
    *,
    users: int | None = None,
    rate: float | None = None,
    seconds: float | None = None,
    chats: int | None = None,
    spacing: str = "uniform",
) -> Plan:
    """The plan of a profile, with its defaults where an argument is None.

    `rate` makes the model open. `breakpoint` is always open, and begins with `rate`.
    """
    definition = PROFILES[Profile(profile)]
    seconds = seconds or definition.seconds
    model = LoadModel.CLOSED if rate is None else LoadModel.OPEN
    if profile is Profile.BREAKPOINT:
        model, stages = LoadModel.OPEN, list(_steps(rate or FIRST_RATE, seconds))
        users = users or MAX_CONCURRENT_REQUESTS
    elif rate is not None:
        stages = definition.stages(rate, seconds)
        users = users or min(max(10, math.ceil(rate)), MAX_CONCURRENT_REQUESTS)
    else:
        users = users or definition.users
        stages = definition.stages(users, seconds)
    return Plan(scenario, profile, model, seed, users, stages, chats, spacing)


def _steps(rate: float, seconds: float) -> Iterator[Stage]:
    """Levels that rise by a factor. The unmeasured begin of each lets requests of the last one finish."""
    count = min(max(2, int(seconds / MIN_STEP_SECONDS)), MAX_STEPS)
    length = seconds / count
    for step in range(count):
        level = rate * STEP_FACTOR**step
        yield Stage(length * WARM_UP_SHARE, level, level, measured=False)
        yield Stage(length * (1 - WARM_UP_SHARE), level, level)
