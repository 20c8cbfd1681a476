"""Reading a long list a page at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def read_pages(
    read: Callable[[int, int], Sequence[T]],
    position_of: Callable[[T], int],
    *,
    after: int,
    limit: int | None,
    page_size: int,
) -> Iterator[Sequence[T]]:
    """Pages of at most `page_size` items, `limit` items together (None: all), as `read` returns them.

    `read(after, size)` returns at most `size` items whose positions are above `after`, in their order.
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
