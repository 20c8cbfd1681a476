"""The last minute of an installation, as far as somebody looked at its health: the page's charts."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backend.monitoring.health import HealthSnapshot

HISTORY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Moment:
    """The charted figures at one moment; None is unknown. Rates are a second, lags in seconds."""

    at: float
    accepted: float | None
    stored: float | None
    searchable: float | None
    storing_lag: float | None
    publishing_lag: float | None
    sync_lag: float | None


class Series(NamedTuple):
    """One figure over the last minute: pairs of the seconds ago and the value."""

    name: str
    is_rate: bool
    points: Sequence[tuple[float, float | None]]


_CHARTS: tuple[tuple[str, bool, Callable[[Moment], float | None]], ...] = (
    ("Accepted", True, lambda moment: moment.accepted),
    ("Stored", True, lambda moment: moment.stored),
    ("Searchable", True, lambda moment: moment.searchable),
    ("Oldest not stored", False, lambda moment: moment.storing_lag),
    ("Oldest not searchable", False, lambda moment: moment.publishing_lag),
    ("Oldest not counted", False, lambda moment: moment.sync_lag),
)


class History:
    """The moments of the last minute. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moments: deque[Moment] = deque()

    def add(self, snapshot: HealthSnapshot) -> None:
        """Record a snapshot as the newest moment."""
        rates, now = snapshot.rates, self._clock()
        searched = any(engine.name == "Elasticsearch" for engine in snapshot.engines)
        storing = publishing = syncing = None
        if status := snapshot.status:
            storing = _lag(status.waiting, status.oldest_seconds)
            if searched:
                publishing = _lag(status.unpublished, status.unpublished_seconds)
            syncing = _lag(status.dirty_counters, status.sync_lag_seconds)
        self._moments.append(
            Moment(
                now,
                rates.accepted,
                rates.stored,
                rates.searchable if searched else None,
                storing,
                publishing,
                syncing,
            )
        )
        while now - self._moments[0].at > HISTORY_SECONDS:
            self._moments.popleft()

    def series(self) -> list[Series]:
        """Every figure that was known at some moment; empty without any."""
        now = self._clock()
        found = [
            Series(name, is_rate, [(now - moment.at, of(moment)) for moment in self._moments])
            for name, is_rate, of in _CHARTS
        ]
        return [each for each in found if any(value is not None for _, value in each.points)]


def _lag(waiting: int | None, seconds: float | None) -> float | None:
    """How long the oldest has waited: 0 if nothing waits."""
    return 0.0 if waiting == 0 else seconds
