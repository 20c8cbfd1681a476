"""The handwritten search cases, the oracle and the program's folding agree."""

import pytest

from backend.domain.errors import Invalid
from backend.domain.folding import fold, fold_keyword, highlight
from tests.support.search_cases import CASES, INVALID_KEYWORDS, SearchCase, oracle

every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
def test_the_oracle_agrees(case: SearchCase) -> None:
    assert oracle(case.texts, case.keyword) == case.matches


@every_case
def test_folding_agrees(case: SearchCase) -> None:
    wanted = fold_keyword(case.keyword)

    assert [i for i, text in enumerate(case.texts) if wanted in fold(text)] == case.matches


@every_case
def test_matches_and_only_they_are_highlighted(case: SearchCase) -> None:
    wanted = fold_keyword(case.keyword)
    ranges = [highlight(text, case.keyword) for text in case.texts]

    assert [i for i, found in enumerate(ranges) if found] == case.matches
    for text, found in zip(case.texts, ranges, strict=True):
        assert all(wanted in fold(text[start:end]) for start, end in found)


@pytest.mark.parametrize("keyword", INVALID_KEYWORDS.values(), ids=INVALID_KEYWORDS)
def test_invalid_keywords_are_refused(keyword: str) -> None:
    with pytest.raises(Invalid, match="the keyword"):
        fold_keyword(keyword)


def test_the_cases_are_valid_themselves() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)), "two cases have one name"
    for case in CASES:
        assert 1 <= len(case.keyword) <= 256, case.name
        assert all(1 <= len(text) <= 10_000 and "\0" not in text for text in case.texts), case.name
        assert case.matches == sorted(set(case.matches)), case.name


def test_most_cases_have_texts_that_match_and_texts_that_do_not() -> None:
    """If every text of a case matches, the case cannot detect a search that finds too much."""
    telling = [case for case in CASES if 0 < len(case.matches) < len(case.texts)]

    assert len(telling) > 0.8 * len(CASES)
