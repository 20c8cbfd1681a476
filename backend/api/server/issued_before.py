"""The numbers issued that a process has read, and since when it has read the same ones.

Numbers only rise. So if the same one was read before and after a moment, it was the one of that moment, too.
"""

from typing import Final

from backend.domain.model import Parent
from backend.storage.redis.counters import Issued

MAX_PARENTS: Final = 8_192  # some megabytes


class IssuedBefore:
    """The last number read of each of the parents read last. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[Parent, tuple[int, float]] = {}

    def note(self, issued: Issued, now: float) -> None:
        """These numbers have been read by `now`, a time of the event loop."""
        for parent, number in issued.items():
            if number is None:
                self._known.pop(parent, None)
                continue
            known = self._known.get(parent)
            if known is None or known[0] != number:
                self._known[parent] = number, now
        while len(self._known) > MAX_PARENTS:
            del self._known[next(iter(self._known))]

    def is_unchanged_since(self, parent: Parent, moment: float) -> bool:
        """Whether the number that was noted last was noted before that moment, too."""
        known = self._known.get(parent)
        return known is not None and known[1] < moment
