"""What is left of a range of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backend.storage.postgres.gaps import Gap, without

MAX = 12
NUMBERS = st.integers(1, MAX)


@given(st.sets(NUMBERS), st.sets(NUMBERS))
def test_the_parts_of_ranges_are_what_was_not_taken(inside: set[int], taken: set[int]) -> None:
    """In order, and as few as possible. Numbers may be in no range, and ranges may be empty."""
    ranges = list(without([Gap(0, MAX)], sorted({*range(MAX + 1)} - inside)))
    parts = list(without([Gap(0, -1), *ranges, Gap(MAX + 1, MAX)], sorted(taken)))
    left = [number for part in parts for number in range(part.first, part.last + 1)]
    assert left == sorted(inside - taken)
    assert all(before.last + 1 < after.first for before, after in pairwise(parts))


def test_a_range_may_be_longer_than_memory() -> None:
    assert list(without([Gap(1, 10**15)], [5])) == [Gap(1, 4), Gap(6, 10**15)]
