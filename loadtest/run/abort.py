"""Limits that end a hopeless run early, by the figures of its last seconds."""

from dataclasses import dataclass
from typing import Literal

from loadtest.report.result import RouteStatistics

JUDGED_SECONDS = 5  # the newest whole seconds; none of them belongs to the ramp-up


@dataclass(frozen=True)
class AbortLimit:
    """A limit of the p99, in milliseconds, or of the share of failures, 0 to 1."""

    metric: Literal["p99", "errors"]
    limit: float

    def why_exceeded(self, recent: RouteStatistics) -> str | None:
        """What is beyond the limit, in words; None if it is kept or nothing was recorded."""
        if self.metric == "errors":
            share = recent.error_share
            words = f"{share:.2%} of the requests failed, above {self.limit:.2%}"
            return words if share > self.limit else None
        if recent.p99_ms is None or recent.p99_ms <= self.limit:
            return None
        return f"the p99 was {recent.p99_ms:,.1f} ms, above {self.limit:g} ms"
