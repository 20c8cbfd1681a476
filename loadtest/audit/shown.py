"""Audits what the server has shown during a run: the pages that clients read, and the events of followers.

A page of a chat in which nothing is deleted has all numbers from its newest to its oldest, and includes what
was known to be stored when it was requested. A follower receives each number once and in order. Texts are
those that were sent under their numbers. All of it is decided by the records; the server is not asked.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from loadtest.audit.ledger import AuditLedger, Follower
from loadtest.recording import READER, RecordedPage
from loadtest.report.result import DeliveryAudit, PageAudit

MAX_EXAMPLES = 5


class ShownAudit(NamedTuple):
    """What was found. `pages` is None if no page was read, `deliveries` if no chat was followed."""

    pages: PageAudit | None
    followers: int
    deliveries: DeliveryAudit | None
    examples: list[str]


class _Findings:
    """Counts by kind, and the first few faults in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def add_fault(self, kind: str, count: int, application: int, chat: int, words: str) -> None:
        """Count a fault of a chat."""
        self.counts[kind] += count
        if count and len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"application {application + 1}, chat {chat}: {words}")


def audit_shown(ledger: AuditLedger, recorded: Iterable[RecordedPage]) -> ShownAudit:
    """Audit the pages and the followers of a run."""
    pages, deliveries = _Findings(), _Findings()
    for page in recorded:
        pages.counts["read"] += 1
        pages.counts["not_modified"] += page.not_modified
        if kind := _page_fault(page):
            words = (
                f"a page from {page.newest} to {page.oldest} is {kind}; it has {page.length} messages,"
                f" and {page.known} was stored"
            )
            pages.add_fault(kind, 1, page.application, page.chat, words)
    followers = ledger.followers()
    for follower in followers:
        counts = _follower_counts(ledger, follower)
        deliveries.counts["received"] += counts.pop("received", 0)
        for kind, count in counts.items():
            words = f"follower {follower.place + 1}: {count:,} {kind}"
            deliveries.add_fault(kind, count, follower.application, follower.chat, words)
    for text in ledger.unsent():
        (pages if text.follower == READER else deliveries).add_fault(
            *("wrong_text", 1, text.application, text.chat),
            f"number {text.number} was shown with another text",
        )
    return ShownAudit(
        pages=PageAudit(**pages.counts) if pages.counts else None,
        followers=len(followers),
        deliveries=DeliveryAudit(**deliveries.counts) if followers else None,
        examples=[*pages.examples, *deliveries.examples],
    )


def _page_fault(page: RecordedPage) -> str:
    """The kind of fault of a page; empty if there is none."""
    beyond = page.before and page.newest >= page.before
    if not page.descending or beyond:
        return "disordered"
    if page.newest < page.known:
        return "stale"
    is_dense = page.length == (page.newest - page.oldest + 1 if page.newest else 0)
    is_full = page.length == page.limit or page.oldest <= 1
    return "" if is_dense and is_full else "incomplete"


def _follower_counts(ledger: AuditLedger, follower: Follower) -> Counter[str]:
    """How many numbers a follower received, and how many of them late, repeatedly, or not at all.

    It must receive the numbers that its own process was answered, because the users of a process wait for
    them before they end. Of the numbers that others were answered, it must receive those below its last one.
    """
    counts: Counter[str] = Counter()
    passed: set[int] = set()  # numbers that were left out so far
    last = 0
    for number in ledger.received(follower):
        counts["received"] += 1
        if number > last:
            passed.update(range(last + 1, number))
            last = number
        elif number in passed:
            passed.remove(number)
            counts["reordered"] += 1
        else:
            counts["doubled"] += 1
    application, chat = follower.application, follower.chat
    until = ledger.highest_answered_to(follower.source, application, chat)
    missed = ledger.answered(application, chat, last, until)
    if passed:
        missed |= passed & ledger.answered(application, chat, 0, last)
    counts["missed"] = len(missed)
    return counts
