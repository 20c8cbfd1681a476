"""The digests of earlier lines, which a dry run keeps in memory."""

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.model import MAX_IMPORTED_NUMBER
from backend.transfer.diff import NumberDigests

NUMBERS = st.integers(1, MAX_IMPORTED_NUMBER)
DIGESTS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(st.integers(1, 12) | NUMBERS, DIGESTS)))
def test_number_digests_return_what_a_dictionary_returns(pairs: list[tuple[int, int]]) -> None:
    """Numbers may come in any order; a number keeps its first digest."""
    digests, dictionary = NumberDigests(), dict[int, int]()
    for number, digest in pairs:
        assert digests.get_or_set(number, digest) == dictionary.get(number)
        dictionary.setdefault(number, digest)
        assert all(
            digests.get(n) == dictionary.get(n) for n in (number - 1, number, number + 1) if n
        )
