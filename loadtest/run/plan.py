"""What a run is to do: its model, its levels over time, and the profiles that people know by name.

A level is a number of users (closed model) or of arrivals a second (open model). Arrivals are evenly spaced
and known beforehand, whatever the server does: that is what makes the model open.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.report.result import Model, Window
from loadtest.run.choices import Profile, Scenario

STEP_FACTOR = 1.25  # from one level of `breakpoint` to the next
MAX_STEPS = 24  # at most so many, and none of them shorter than
MIN_STEP_SECONDS = 2.0
WARM_UP_SHARE = 0.3  # of a step, before its figures count
FIRST_RATE = 50.0  # of `breakpoint`, unless --rate says otherwise
MAX_CONCURRENT_REQUESTS = 500  # requests at once, in the open model, unless --users says otherwise


@dataclass(frozen=True)
class Stage:
    """Some seconds, in which the level goes evenly from `begin` to `end`."""

    seconds: float
    begin: float
    end: float
    measured: bool = True  # whether it belongs to the measured window

    def level(self, at: float) -> float:
        """The level so many seconds after the stage's begin."""
        return self.begin + (self.end - self.begin) * at / self.seconds

    def arrivals(self, at: float) -> float:
        """How many arrivals there are from the stage's begin until then."""
        return self.begin * at + (self.end - self.begin) * at * at / (2 * self.seconds)

    def time_of(self, arrivals: float) -> float:
        """When so many have arrived: the inverse of `arrivals`."""
        slope = (self.end - self.begin) / self.seconds
        if not slope:
            return arrivals / self.begin if self.begin else math.inf
        return (math.sqrt(max(self.begin**2 + 2 * slope * arrivals, 0)) - self.begin) / slope


@dataclass(frozen=True)
class Plan:
    """A run, as its generator's processes have to know it."""

    scenario: str
    profile: str
    model: Model
    seed: int
    users: int  # at the highest; in the open model: at most so many requests under way
    stages: list[Stage]
    chats: int | None = None  # instead of as many as the scenario has

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def highest(self) -> float:
        """The highest level."""
        return max(max(stage.begin, stage.end) for stage in self.stages)

    @property
    def window(self) -> Window:
        """From the first stage that counts to the last: what the figures are about."""
        begins = [(begin, begin + stage.seconds) for begin, stage in self.timed() if stage.measured]
        return Window(begins[0][0], begins[-1][1]) if begins else Window(0, self.seconds)

    def timed(self) -> Iterator[tuple[float, Stage]]:
        """The stages with when each begins."""
        begin = 0.0
        for stage in self.stages:
            yield begin, stage
            begin += stage.seconds

    def level(self, at: float) -> float:
        """The level at that second; 0 when it is over."""
        for begin, stage in self.timed():
            if at < begin + stage.seconds:
                return stage.level(max(at - begin, 0))
        return 0.0

    def arrivals(self, process: int, processes: int) -> Iterator[tuple[int, float]]:
        """Number and second of each arrival that falls to process `mine` of so many."""
        number, before = process, 0.0
        for begin, stage in self.timed():
            until = before + stage.arrivals(stage.seconds)
            while number + 0.5 < until:
                yield number, begin + stage.time_of(number + 0.5 - before)
                number += processes
            before = until

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """The plan that `to_json` has written."""
        stages = [Stage(**stage) for stage in data["stages"]]
        return cls(**{**data, "model": Model(data["model"]), "stages": stages})


@dataclass(frozen=True)
class ProfileDefinition:
    """The definition of a load, and how much of it where nothing else is said."""

    about: str
    users: int
    seconds: float
    ramp: float  # seconds, at most a third of the run; they do not count
    levels: list[float] = field(default_factory=lambda: [1.0])
    """Shares of the highest level, each for the same time."""

    def stages(self, highest: float, seconds: float) -> list[Stage]:
        """Ramp up, then hold each level."""
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
) -> Plan:
    """The plan of a profile; `rate` makes the model open, and so does `breakpoint`, which begins with it."""
    definition = PROFILES[Profile(profile)]
    seconds = seconds or definition.seconds
    if profile is Profile.BREAKPOINT:
        stages = list(_steps(rate or FIRST_RATE, seconds))
        return Plan(
            scenario, profile, Model.OPEN, seed, users or MAX_CONCURRENT_REQUESTS, stages, chats
        )
    if rate is not None:
        max_users = users or min(max(10, math.ceil(rate)), MAX_CONCURRENT_REQUESTS)
        return Plan(
            scenario, profile, Model.OPEN, seed, max_users, definition.stages(rate, seconds), chats
        )
    max_users = users or definition.users
    return Plan(
        scenario,
        profile,
        Model.CLOSED,
        seed,
        max_users,
        definition.stages(max_users, seconds),
        chats,
    )


def _steps(rate: float, seconds: float) -> Iterator[Stage]:
    """Levels that rise by a factor; the beginning of each lets what came before run off."""
    count = min(max(2, int(seconds / MIN_STEP_SECONDS)), MAX_STEPS)
    length = seconds / count
    for step in range(count):
        level = rate * STEP_FACTOR**step
        yield Stage(length * WARM_UP_SHARE, level, level, measured=False)
        yield Stage(length * (1 - WARM_UP_SHARE), level, level)
