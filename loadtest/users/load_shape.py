"""The plan's levels, told to Locust second by second; `bench run` adds this file to a scenario's."""

import math

from locust import LoadTestShape
from locust.runners import LocalRunner

from loadtest.report.result import Model
from loadtest.users.coordination import swarm

QUIET_SECONDS = 2.0  # after the last user has ended: the workers' last reports arrive
MOST_SECONDS = 30.0  # after the end: longer than any request may take
AT_ONCE = 100.0  # users that may start, or end, within a second, at least


class Planned(LoadTestShape):
    """Users as planned; at the end nobody, then quiet until everything is written, then the end."""

    _over_since: float | None = None
    _quiet_since: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be, and how fast they may come."""
        here, plan = swarm(), swarm().plan
        assert plan, "a shape needs a plan"
        now = here.now or 0.0  # before the first tick is over there is no ground, and no clock
        if here.over or here.stop_asked():
            here.end()
            return self._run_out(now, max(plan.users, AT_ONCE))
        if plan.model is Model.OPEN:
            return plan.users, max(plan.users, AT_ONCE)
        users = max(math.ceil(plan.level(now)), 1)
        return users, max(users, AT_ONCE)

    def _run_out(self, now: float, at_once: float) -> tuple[int, float] | None:
        """Nobody any more, all of a sudden: who is left would go on with a part of what is due.

        The end comes once all is quiet, or too much time has passed.
        """
        if self._over_since is None:
            self._over_since = now
        if self._quiet_since is None and not (self.runner and self.runner.user_count):
            self._quiet_since = now
        quiet = 0.0 if isinstance(self.runner, LocalRunner) else QUIET_SECONDS
        is_quiet = self._quiet_since is not None and now - self._quiet_since >= quiet
        if is_quiet or now - self._over_since > MOST_SECONDS:
            return None
        return 0, at_once
