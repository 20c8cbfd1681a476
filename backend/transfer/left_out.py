"""Finds the numbers that the lines of an import leave out, so that it can say so before it stores them.

A line's number is kept, so one line can leave out billions. Nothing has these numbers: they count as chats or
messages that were issued, and `reconcile` reports them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from backend.domain.model import Parent
from backend.transfer.format import ChatLine, MessageLine, TransferLine


class LeftOut(NamedTuple):
    """The numbers under a parent, from `first` to `last`, that a line leaves out."""

    line: int
    parent: Parent
    first: int
    last: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class LeftOutFinder:
    """Remembers the highest number of each parent: a later line may have a number below it."""

    def __init__(self) -> None:
        self._highest: dict[Parent, int] = {}

    def find(
        self, new: Sequence[tuple[int, TransferLine]], stored: Mapping[Parent, int]
    ) -> list[LeftOut]:
        """What these new lines, each with its number in the file, leave out; in their order.

        `stored` has the highest stored number under each parent that is stored.
        """
        found: list[LeftOut] = []
        for parent, lines in _by_parent(new).items():
            highest = max(stored.get(parent, 0), self._highest.get(parent, 0))
            for number, first, line in sorted(lines):
                if first > highest + 1:
                    found.append(LeftOut(line, parent, highest + 1, first - 1))
                highest = max(highest, number)
            self._highest[parent] = highest
        return sorted(found)


def _by_parent(
    new: Iterable[tuple[int, TransferLine]],
) -> dict[Parent, list[tuple[int, int, int]]]:
    """Of the lines under each parent: the number, the first number that the line stands for, the line."""
    lines: dict[Parent, list[tuple[int, int, int]]] = {}
    for place, line in new:
        if isinstance(line, ChatLine | MessageLine):
            first = line.number if line.first is None else line.first
            lines.setdefault(line.parent, []).append((line.number, first, place))
    return lines
