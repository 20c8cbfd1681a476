"""Latencies in memory that does not grow with their number: exact to the microsecond below 16 ms, and to
one part in 8,192 above. Percentiles are the recorded values themselves; nothing is interpolated.
"""

import math
from collections import Counter

SIGNIFICANT_BITS = 14


class Histogram:
    """How often each latency occurred, in microseconds."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.highest = 0

    def add(self, micros: int) -> None:
        """Record one."""
        shift = max(micros.bit_length() - SIGNIFICANT_BITS, 0)
        self._counts[micros >> shift << shift] += 1
        if micros > self.highest:
            self.highest = micros

    def merge(self, other: "Histogram") -> None:
        """Record all that the other has."""
        self._counts.update(other._counts)
        self.highest = max(self.highest, other.highest)

    @property
    def count(self) -> int:
        """How many were recorded."""
        return self._counts.total()

    def percentiles_ms(self, *shares: float) -> list[float | None]:
        """The least latencies that those shares (0 to 1) do not exceed, in milliseconds; None of nothing."""
        ranked = sorted(self._counts.items())
        total = self.count
        found: list[float | None] = []
        for share in shares:
            rank, passed = math.ceil(share * total), 0
            for micros, times in ranked:
                passed += times
                if passed >= rank:
                    found.append(min(micros, self.highest) / 1000)
                    break
            else:
                found.append(None)
        return found

    @property
    def max_ms(self) -> float | None:
        """The highest latency, in milliseconds; None of nothing."""
        return self.highest / 1000 if self._counts else None
