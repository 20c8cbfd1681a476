"""How long messages took from their answer until a follower received them: of the run, and by second."""

from collections import defaultdict
from pathlib import Path

from loadtest.recording import recorded_deliveries
from loadtest.report.result import Spread, Window
from loadtest.run.histogram import Histogram


class Deliveries:
    """The recorded deliveries of a run that has ended. Creating one reads them."""

    def __init__(self, folder: Path, window: Window) -> None:
        self._measured = Histogram()
        self._seconds: defaultdict[int, Histogram] = defaultdict(Histogram)
        for at_s, micros in recorded_deliveries(folder):
            self._seconds[int(at_s)].add(micros)
            if window.from_s <= at_s < window.to_s:
                self._measured.add(micros)

    def spread(self, missed: int) -> Spread:
        """The percentiles of what was answered within the window; `missed` was never received."""
        return self._measured.spread(missed)

    def medians_ms(self) -> dict[int, float | None]:
        """The median of each second in which something was answered."""
        return {
            second: times.percentiles_ms(0.5)[0] for second, times in sorted(self._seconds.items())
        }
