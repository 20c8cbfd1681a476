"""Gives Locust the levels of the plan; `bench run` passes this file beside the scenario."""

import math

from locust import LoadTestShape
from locust.runners import LocalRunner

from loadtest.report.result import LoadModel
from loadtest.users.coordination import coordinator

QUIET_SECONDS = 2.0  # after the last user has ended, for the workers' last reports to arrive
MAX_WIND_DOWN_SECONDS = 50.0  # longer than any request may take, and any wait for followers
MIN_SPAWN_RATE = 100.0  # users a second that Locust may start or end


class PlannedShape(LoadTestShape):
    """As many users as planned; at the end none, then a quiet time for the last reports, then the end."""

    _over_since: float | None = None
    _quiet_since: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and how many may start a second; None ends the run."""
        state, plan = coordinator(), coordinator().plan
        assert plan, "a shape needs a plan"
        now = state.now or 0.0  # at the first tick the clock has not started yet
        if state.is_over or state.stop_requested():
            state.end()
            return self._wind_down(now, max(plan.users, MIN_SPAWN_RATE))
        if plan.model is LoadModel.OPEN:
            return plan.users, max(plan.users, MIN_SPAWN_RATE)
        users = max(math.ceil(plan.level(now)), 1)
        return users, max(users, MIN_SPAWN_RATE)

    def _wind_down(self, now: float, spawn_rate: float) -> tuple[int, float] | None:
        """End all users at once: if some remained, they would serve a part of the planned arrivals.

        The run ends after the quiet time, or if users do not end within MAX_WIND_DOWN_SECONDS.
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
