"""The queries of lists that the fast path answers: plain and valid ones."""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from backend.api.parameters import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from backend.domain.errors import Invalid
from backend.domain.folding import fold_keyword
from backend.domain.model import MAX_NUMBER

CHATS: Final = frozenset({b"after", b"limit"})
MESSAGES: Final = frozenset({b"after", b"before", b"limit", b"order"})
SEARCH: Final = frozenset({b"after", b"limit", b"keyword"})
# A keyword of visible ASCII, without what ends a parameter: others are percent-encoded.
_match_parameter = re.compile(
    rb"""(after|before|limit)=([0-9]{1,15})|(order)=(asc|desc)|(keyword)=([!"$%'-~]+)"""
).fullmatch


class PageQuery(NamedTuple):
    """A page of a list; of a search, if it has a folded keyword."""

    after: int = 0
    before: int = MAX_NUMBER + 1
    limit: int = DEFAULT_PAGE_SIZE
    descending: bool = False
    folded_keyword: str | None = None

    @property
    def rows(self) -> int:
        """How many to read: one more than the limit shows that another page follows."""
        return self.limit + 1


_DEFAULT_PAGE = PageQuery()


def parse_chats(query: bytes | None) -> PageQuery | None:
    """The page of chats that a query asks for; None unless its parameters are plain and valid."""
    return _parse(query, CHATS)


def parse_messages(query: bytes | None) -> PageQuery | None:
    """As `parse_chats`, for messages or a search of them."""
    return _parse(query, SEARCH if query is not None and b"keyword=" in query else MESSAGES)


def _parse(query: bytes | None, allowed: frozenset[bytes]) -> PageQuery | None:
    if query is None:
        return _DEFAULT_PAGE
    given: dict[bytes, bytes] = {}
    for parameter in query.split(b"&"):
        if not (match := _match_parameter(parameter)):
            return None
        name = match[1] or match[3] or match[5]
        if name in given or name not in allowed:
            return None
        given[name] = match[2] or match[4] or match[6]
    keyword = given.get(b"keyword")
    try:
        folded = None if keyword is None else fold_keyword(unquote_plus(keyword.decode("ascii")))
    except Invalid:
        return None
    page = PageQuery(
        int(given.get(b"after", 0)),
        int(given.get(b"before", MAX_NUMBER + 1)),
        int(given.get(b"limit", DEFAULT_PAGE_SIZE)),
        given.get(b"order") == b"desc",
        folded,
    )
    is_valid = 0 < page.limit <= MAX_PAGE_SIZE and page.after <= page.before and page.before > 0
    return page if is_valid else None
