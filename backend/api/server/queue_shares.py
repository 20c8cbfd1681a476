"""The places of a queue, which applications share: none of them can take more than half.

To count a place costs each request some time. So they are counted only while half of all places are taken;
before that, no application can have more.
"""

from collections import Counter
from collections.abc import Callable


class QueueShares:
    """Who has the places of a queue. For one event loop; not thread-safe."""

    def __init__(self, places: int, count: Callable[[], Counter[str]]) -> None:
        """`count` counts the places that each application has, by its token."""
        self._max_of_all = places
        self._max_of_one = places // 2
        self._count = count
        self._taken: Counter[str] | None = None  # while it is known

    def take(self, token: str, taken: int) -> bool:
        """Take a place for an application's request, when so many are taken. Returns whether there is one."""
        if taken < self._max_of_one:
            return True
        if taken >= self._max_of_all:
            return False
        if self._taken is None:
            self._taken = self._count()
        if self._taken[token] >= self._max_of_one:
            return False
        self._taken[token] += 1
        return True

    def recount(self) -> None:
        """Places have become free: count again when it matters."""
        self._taken = None
