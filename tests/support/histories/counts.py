"""Whether a count is that of a moment within its request.

At any moment, the count is at least what was certainly created by then, without what was perhaps deleted;
and at most what was perhaps created, without what was certainly deleted. A count that is within these bounds
at no moment of its request is wrong, also if it is within those of the request as a whole.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tests.support.histories.interpretation import CountChange, CountReading


class WrongCount(NamedTuple):
    """A reading that is out of bounds at each moment, with the least and the most of all moments.

    It `is_torn` if it could be made of what was created at one moment and deleted at another.
    """

    reading: CountReading
    least: int
    most: int
    is_torn: bool


class _Steps:
    """A sum that grows, or falls, at certain times."""

    def __init__(self, steps: Sequence[tuple[float, int]]) -> None:
        ordered = sorted(step for step in steps if step[0] < math.inf)
        self.times = [time for time, _ in ordered]
        self._sums = [0, *accumulate(by for _, by in ordered)]

    def through(self, time: float) -> int:
        """The sum of the steps up to a time, those at this time included."""
        return self._sums[bisect_right(self.times, time)]

    def before(self, time: float) -> int:
        """The sum of the steps before a time."""
        return self._sums[bisect_left(self.times, time)]

    def between(self, start: float, end: float) -> Sequence[float]:
        """The times of the steps between two times."""
        return self.times[bisect_left(self.times, start) : bisect_right(self.times, end)]


def wrong_counts(
    changes: Sequence[CountChange], readings: Sequence[CountReading]
) -> Iterator[WrongCount]:
    """The readings of a parent that are those of no moment of their request."""
    perhaps_created = _Steps([(one.sent, one.by) for one in changes if one.by > 0])
    created = _Steps([(one.answered, one.by) for one in changes if one.by > 0])
    perhaps_deleted = _Steps([(one.sent, one.by) for one in changes if one.by < 0])
    deleted = _Steps([(one.answered, one.by) for one in changes if one.by < 0])
    for reading in readings:
        start, end = reading.exchange.sent, reading.exchange.answered
        assert end is not None
        # The bounds are widest at the beginning, and at a step that lowers the lower or raises the upper one.
        # What is answered at that very time may have its effect just after it.
        moments = [
            start,
            *perhaps_deleted.between(start, end),
            *perhaps_created.between(start, end),
        ]
        bounds = [
            (
                created.before(moment) + perhaps_deleted.through(moment),
                perhaps_created.through(moment) + deleted.before(moment),
            )
            for moment in moments
        ]
        if any(least <= reading.shown <= most for least, most in bounds):
            continue
        least_torn = created.before(start) + perhaps_deleted.through(end)
        most_torn = perhaps_created.through(end) + deleted.before(start)
        yield WrongCount(
            reading,
            least=min(least for least, _ in bounds),
            most=max(most for _, most in bounds),
            is_torn=least_torn <= reading.shown <= most_torn,
        )
