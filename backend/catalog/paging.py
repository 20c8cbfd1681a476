"""Reading a long list a page at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from backend.domain.model import NumberedPage

T = TypeVar("T")
P = TypeVar("P")


class Numbered(Protocol):
    """A chat or a message."""

    @property
    def number(self) -> int:
        """Its number."""


N = TypeVar("N", bound=Numbered)


def read_pages(
    read: Callable[[P, int], Sequence[T]],
    position_of: Callable[[T], P],
    *,
    after: P,
    limit: int | None,
    page_size: int,
) -> Iterator[Sequence[T]]:
    """Pages of at most `page_size` items, `limit` items together (None: all), as `read` returns them.

    `read(after, size)` returns at most `size` items whose positions come after `after`, in their order, which
    may descend.
    """
    while limit is None or limit > 0:
        size = page_size if limit is None else min(limit, page_size)
        page = read(after, size)
        if page:
            yield page
        if len(page) < size:
            return
        after = position_of(page[-1])
        limit = None if limit is None else limit - len(page)


def first_page(found: Sequence[N], limit: int, total: int) -> NumberedPage[N]:
    """A page of the first `limit` of the items found; the caller has read one more, if there is one."""
    items = found[:limit]
    return NumberedPage(items, items[-1].number if len(found) > limit else None, total)
