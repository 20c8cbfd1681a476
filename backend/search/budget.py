"""What one page of a search may cost, so that no page keeps the others waiting for long.

A text of 10,000 characters may fold to 180,000, and a keyword may be found in it 10,000 times. A page ends
where its budget is spent: it then has fewer messages than were asked for, and says where the next one begins.
"""

from collections.abc import Callable
from math import inf

# Of texts, folded or not, whichever is longer, in code points: each takes up to a microsecond.
MAX_PAGE_LENGTH = 500_000
# Places of the keyword in a page: about 25 bytes of a response each.
MAX_PAGE_HIGHLIGHTS = 10_000


class SearchCancelled(Exception):
    """The caller of a search does not wait for it any more."""


class SearchBudget:
    """What is left for one page, or for all that a search finds."""

    def __init__(
        self,
        *,
        length: float = inf,
        highlights: float = inf,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._length = length
        self._highlights = highlights
        self._is_cancelled = is_cancelled

    @property
    def is_spent(self) -> bool:
        """Whether the page has to end."""
        return self._length <= 0 or self._highlights <= 0

    def charge(self, length: int, highlights: int) -> None:
        """Count a message: the length of its text, folded or not, and how often the keyword is in it."""
        self._length -= length
        self._highlights -= highlights

    def check(self) -> None:
        """Raise SearchCancelled if nothing waits for the search any more. Call it between two steps."""
        if self._is_cancelled():
            raise SearchCancelled


def page_budget(is_cancelled: Callable[[], bool]) -> SearchBudget:
    """The budget of a page of HTTP."""
    return SearchBudget(
        length=MAX_PAGE_LENGTH, highlights=MAX_PAGE_HIGHLIGHTS, is_cancelled=is_cancelled
    )
