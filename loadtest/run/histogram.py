"""A histogram of latencies, in memory that does not grow with their number.

Values are exact to the microsecond below 16 ms, and to one part in 8,192 above. Percentiles are recorded
values and are not interpolated.
"""

import math
from collections import Counter

from loadtest.report.result import LatencyBucket, Spread
from loadtest.run.hdr_log import Interval, encode

SIGNIFICANT_BITS = 14
BUCKETS_PER_DECADE = 20


def _edge_ms(place: int) -> float:
    """Where a bucket begins, in milliseconds."""
    return float(f"{10 ** (place / BUCKETS_PER_DECADE) / 1000:.4g}")


class Histogram:
    """How often each latency, in microseconds, occurred."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.highest = 0

    def add(self, micros: int) -> None:
        """Record one latency."""
        shift = max(micros.bit_length() - SIGNIFICANT_BITS, 0)
        self._counts[micros >> shift << shift] += 1
        if micros > self.highest:
            self.highest = micros

    def merge(self, other: "Histogram") -> None:
        """Add all latencies of another histogram."""
        self._counts.update(other._counts)
        self.highest = max(self.highest, other.highest)

    @property
    def count(self) -> int:
        """How many latencies were recorded."""
        return self._counts.total()

    def percentiles_ms(self, *shares: float) -> list[float | None]:
        """For each share (0 to 1) the lowest latency, in milliseconds, that this share does not exceed.

        None if nothing was recorded.
        """
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

    def buckets(self) -> list[LatencyBucket]:
        """The latencies in buckets, BUCKETS_PER_DECADE from each power of ten to the next; no empty ones."""
        counts: Counter[int] = Counter()
        for micros, times in self._counts.items():
            counts[math.floor(math.log10(max(micros, 1)) * BUCKETS_PER_DECADE)] += times
        return [
            LatencyBucket(_edge_ms(place), _edge_ms(place + 1), times)
            for place, times in sorted(counts.items())
        ]

    def interval(self, tag: str, from_s: float, seconds: float) -> Interval:
        """The latencies as a part of an HdrHistogram log."""
        return Interval(tag, from_s, seconds, self.highest / 1000, encode(self._counts))

    @property
    def max_ms(self) -> float | None:
        """The highest latency, in milliseconds; None if nothing was recorded."""
        return self.highest / 1000 if self._counts else None

    def spread(self, missed: int) -> Spread:
        """The percentiles; `missed` is how many latencies are unknown because the wait for them ended."""
        p50, p95, p99 = self.percentiles_ms(0.5, 0.95, 0.99)
        return Spread(samples=self.count, p50=p50, p95=p95, p99=p99, max=self.max_ms, missed=missed)
