"""The plan's levels, told to Locust second by second; `bench run` adds this file to a scenario's."""

import math

from locust import LoadTestShape
from locust.runners import LocalRunner

from loadtest.report.result import Model
from loadtest.users.coordination import coordinator

QUIET_SECONDS = 2.0  # after the last user has ended: the workers' last reports arrive
MAX_WIND_DOWN_SECONDS = 30.0  # after the end: longer than any request may take
MIN_SPAWN_RATE = 100.0  # users that may start, or end, within a second, at least


class PlannedShape(LoadTestShape):
    """Users as planned; at the end nobody, then quiet until everything is written, then the end."""

    _over_since: float | None = None
    _quiet_since: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be, and how fast they may come."""
        state, plan = coordinator(), coordinator().plan
        assert plan, "a shape needs a plan"
        now = state.now or 0.0  # before the first tick is over there are no fixtures, and no clock
        if state.is_over or state.stop_requested():
            state.end()
            return self._wind_down(now, max(plan.users, MIN_SPAWN_RATE))
        if plan.model is Model.OPEN:
            return plan.users, max(plan.users, MIN_SPAWN_RATE)
        users = max(math.ceil(plan.level(now)), 1)
        return users, max(users, MIN_SPAWN_RATE)

    def _wind_down(self, now: float, spawn_rate: float) -> tuple[int, float] | None:
        """Nobody any more, all of a sudden: who is left would go on with a part of what is due.

        The end comes once all is quiet, or too much time has passed.
        """
        if self._over_since is None:
            self._over_since = now
        if self._quiet_since is None and not (self.runner and self.runner.user_count):
            self._quiet_since = now
        quiet = 0.0 if isinstance(self.runner, LocalRunner) else QUIET_SECONDS
        is_quiet = self._quiet_since is not None and now - self._quiet_since >= quiet
        if is_quiet or now - self._over_since > MAX_WIND_DOWN_SECONDS:
            return None
        return 0, spawn_rate
