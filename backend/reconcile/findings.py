"""Findings: what `reconcile` can find between the stores, and what a parent's two sides say of each other.

For a live parent (an application, or a chat) Redis has a counter, SQL a row and the rows of its children.
`H` is the highest number among the rows. Once all that was given is decided in SQL, four things can be
wrong with them:

counter_behind      the counter gives numbers in this life, and its next one is at or below H. Only by hand,
                    or by a Redis that took its data back without a new life. A counter that is missing, or
                    of an earlier life, is none of this: it is raised to H before it gives another number.
counter_ahead       numbers above H were given, and nothing in the log explains them: they were answered and
                    are lost, or belonged to an import that was killed.
count_differs       the parent's `removed` is not what its rows say; or its `issued`, which follows Redis,
                    is above both the counter and H: Redis has lost numbers that had been answered.
gap_unexplained     a number at or below H has no row and no dead letter: answered, and lost.

Numbers that are removed, dead, lost and known to be so, or still on their way, are no findings: a
`ReconcileSummary` counts them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from backend.domain.model import Parent
from backend.storage.postgres.child_statistics import ChildStatistics
from backend.storage.redis.types import CounterState

MAX_LOST_NUMBERS = (
    100_000  # numbers of one parent that a repair gives up as lost; more is somebody's slip
)


REPAIRS = {
    "counter_behind": "raise the counter",
    "counter_ahead": "store the numbers as lost",
    "count_differs": "count again",
    "gap_unexplained": "store the number as lost",
    "orphan": "make it a dead letter, or remove the counter",
    "missing_document": "publish the message again",
    "stale_document": "publish the message again",
    "ghost_document": "publish that it is removed",
}


class Finding(NamedTuple):
    """One difference, and what it is of: an application, a chat, or the message of a number.

    What has no name (an orphan's chat) is None.
    """

    kind: str
    token: str | None
    chat: int | None
    number: int | None
    detail: str
    repairable: bool


@dataclass(slots=True)
class ReconcileSummary:
    """What was compared, and what explains the gaps that are no findings."""

    applications: int = 0
    chats: int = 0
    messages: int = 0
    documents: int | None = None  # None without an index
    removed: int = 0
    dead: int = 0
    lost: int = 0  # and known to be
    pending: int = 0  # numbers given and not stored, documents not published
    findings: int = 0
    repaired: int = 0

    def count(self, parent: Parent, children: ChildStatistics) -> None:
        """A parent was compared, with its children's numbers."""
        if parent.chat is None:
            self.applications += 1
        else:
            self.chats += 1
            self.messages += children.rows
        self.removed += children.removed_rows
        self.dead += children.dead
        self.lost += children.lost


def highest_issued(children: ChildStatistics, given: int, counter: CounterState) -> int:
    """The number up to which a parent's children have been given numbers that nobody has in hand."""
    forgotten = children.issued if _has_redis_lost_numbers(children, counter) else 0
    return max(children.highest, given, forgotten)


def _has_redis_lost_numbers(children: ChildStatistics, counter: CounterState) -> bool:
    """Whether SQL knows of numbers above all rows that Redis does not know of."""
    return children.issued > max(counter.issued or 0, children.highest)


def is_suspect(children: ChildStatistics, counter: CounterState) -> bool:
    """Whether a parent needs a closer look: anything at all is out of the ordinary."""
    issued = children.highest if counter.issued is None else counter.issued
    return (
        issued > children.highest
        or (issued < children.highest and counter.verified)
        or children.rows != children.highest
        or children.removed != children.not_stored
        or children.issued > children.highest
    )


def compare_parent(
    parent: Parent,
    children: ChildStatistics,
    given: int,
    counter: CounterState,
    gaps: Iterable[int],
) -> Iterator[Finding]:
    """What is wrong between a parent's counter and rows.

    `given` is what the counter said before everything up to there was decided and the statistics were read;
    `counter` is how it was after that.
    """
    issued = counter.issued or 0
    repairable = highest_issued(children, given, counter) - children.rows <= MAX_LOST_NUMBERS

    def finding(kind: str, detail: str) -> Finding:
        return Finding(kind, parent.token, parent.chat, None, detail, repairable)

    if counter.verified and issued < children.highest:
        yield finding(
            "counter_behind", f"the counter is at {issued}, the rows go up to {children.highest}"
        )
    if given > children.highest:
        yield finding(
            "counter_ahead",
            f"the counter is at {given}, the rows go up to {children.highest}: "
            f"{_describe_range(children.highest + 1, given)} given, and neither stored nor in the log",
        )
    differs = []
    if children.removed != children.not_stored:
        differs.append(f"SQL counts {children.removed} removed, the rows say {children.not_stored}")
    if _has_redis_lost_numbers(children, counter):
        lost = _describe_range(max(issued, children.highest) + 1, children.issued)
        differs.append(
            f"SQL counts {children.issued} given, the counter {issued}: {lost} given, and Redis forgot"
        )
    if differs:
        yield finding("count_differs", "; ".join(differs))
    detail = f"there are rows up to {children.highest}, and none of this number"
    for number in gaps:
        chat, message = (number, None) if parent.chat is None else (parent.chat, number)
        yield Finding("gap_unexplained", parent.token, chat, message, detail, repairable)


def _describe_range(first: int, last: int) -> str:
    return f"{first} was" if first == last else f"{first} to {last} were"
