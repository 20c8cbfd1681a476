"""What a server can do wrong, by name."""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kinds of faults that a history can show."""

    # One message.
    STALE_READ = "a read shows a text that was edited away before it was asked"
    READS_GO_BACK = "a read shows less than an earlier one, perhaps of another process, has shown"
    COMES_BACK = "a deleted message comes back"
    LOST = "an answered message is missing"
    LOST_UPDATE = "a change with If-Match was made to another version"
    REFUSED_WITHOUT_REASON = "a change with If-Match was refused, although the version was the same"
    CHANGED_AFTER_DELETION = "a deleted message was changed"
    CREATED_AFTER_DELETION = "a message was created in a deleted chat"
    NUMBER_GIVEN_TWICE = "a number was given twice"
    STORED_TWICE = "a text is shown under another number, too"
    TEXT_NOBODY_WROTE = "a message is shown that nobody wrote"
    KEY_NOT_HONOURED = "a request that was repeated with its Idempotency-Key had another answer"
    UNEXPECTED_ANSWER = "an answer that no request of these gets"

    # Several.
    PAGE_SKIPS = "a page skips what was stored before it was asked for"
    PAGE_DISORDERED = "a page is not in order, or beyond its range"
    SEARCH_MISSES = "a search misses what was stored before it was asked"
    SEARCH_SHOWS_EDITED = "a search shows a text that was edited away before it was asked"
    SEARCH_SHOWS_NO_MATCH = "a search shows a text without the keyword"
    COUNT_WRONG = "a count is none that was to be counted within the request"
    COUNT_TORN = "a count is made of two moments within the request, and was true at none"
    STREAM_SKIPS = "a stream skips a number"
    STREAM_REPEATS = "a stream repeats a number"

    UNDECIDED = "the history of one key has too many possible orders"


class Violation(NamedTuple):
    """One thing that no correct server does."""

    kind: Kind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"
