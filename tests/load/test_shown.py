"""The audit of what the server has shown finds each fault of a page and of a follower's events."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import pytest

from loadtest.audit.ledger import AuditLedger
from loadtest.audit.shown import ShownAudit, audit_shown
from loadtest.corpus.texts import digest
from loadtest.recording import (
    READER,
    RecordedOutcome,
    RecordedPage,
    Recorder,
    append_records,
    recorded_pages,
)

SENT = 100
APPLICATION, CHAT = 2, 7


def text(number: int) -> bytes:
    """The digest of the text that was sent under a number."""
    return digest(f"text {number}")


def audited(
    folder: Path, fill: Callable[[Recorder], object], *, process: str = "a", sent: int = SENT
) -> ShownAudit:
    """The audit of a run whose users, of the process `a`, have sent messages to one chat."""
    users, others = Recorder(), Recorder()
    for number in range(1, sent + 1):
        users.record_outcome(RecordedOutcome.CREATED, APPLICATION, CHAT, number, text(number))
    fill(users if process == "a" else others)
    append_records(folder, "a", users.take())
    append_records(folder, "b", others.take())
    return audit_shown(AuditLedger(folder), recorded_pages(folder))


def follow(*numbers: int, changed: int = 0) -> Callable[[Recorder], None]:
    """A follower that received these numbers, one of them with another text."""

    def fill(recorder: Recorder) -> None:
        recorder.record_shown(APPLICATION, CHAT, 0, 0)
        for number in numbers:
            shown = digest("another") if number == changed else text(number)
            recorder.record_shown(APPLICATION, CHAT, 0, number, shown)

    return fill


def faults(part: object) -> dict[str, int]:
    """The counts of a part of the audit that are faults."""
    neutral = ("read", "not_modified", "received")
    counts = asdict(part)  # type: ignore[call-overload]
    return {kind: count for kind, count in counts.items() if count and kind not in neutral}


ALL = range(1, SENT + 1)


@pytest.mark.parametrize(
    ("received", "changed", "found"),
    [
        (ALL, 0, {}),
        ([n for n in ALL if n != 50], 0, {"missed": 1}),
        ([n for n in ALL if n < 98], 0, {"missed": 3}),
        ([], 0, {"missed": SENT}),
        ([*range(1, 51), 50, *range(51, SENT + 1)], 0, {"doubled": 1}),
        ([*ALL, 1, 2], 0, {"doubled": 2}),
        ([*range(1, 50), 51, 50, *range(52, SENT + 1)], 0, {"reordered": 1}),
        ([*range(2, SENT + 1), 1, 1], 0, {"doubled": 1, "reordered": 1}),
        (ALL, 50, {"wrong_text": 1}),
    ],
)
def test_each_fault_of_a_follower_is_found(
    received: Iterable[int], changed: int, found: dict[str, int], tmp_path: Path
) -> None:
    """Each number once, in order, with the text that was sent; also the last one."""
    audit = audited(tmp_path, follow(*received, changed=changed))
    assert audit.deliveries
    assert faults(audit.deliveries) == found
    assert audit.followers == 1
    assert audit.deliveries.received == len(list(received))
    assert bool(audit.examples) == bool(found)
    assert audit.pages is None


def test_a_follower_need_not_wait_for_what_others_sent(tmp_path: Path) -> None:
    """A process waits for its own messages only; but below the last one nothing may be missed."""
    audit = audited(tmp_path, follow(*range(1, 90)), process="b")
    assert audit.deliveries
    assert faults(audit.deliveries) == {}
    (tmp_path / "other").mkdir()
    audit = audited(tmp_path / "other", follow(*range(1, 80), *range(81, 90)), process="b")
    assert audit.deliveries
    assert faults(audit.deliveries) == {"missed": 1}


def test_a_lost_answer_may_be_delivered_or_not(tmp_path: Path) -> None:
    """Its number is unknown, so a follower may receive its text under any number of the chat."""

    def fill(recorder: Recorder) -> None:
        for lost in (SENT + 1, SENT + 2):
            recorder.record_outcome(
                RecordedOutcome.CREATION_UNKNOWN, APPLICATION, CHAT, 0, text(lost)
            )
        follow(*ALL, SENT + 1)(recorder)

    audit = audited(tmp_path, fill)
    assert audit.deliveries
    assert faults(audit.deliveries) == {}


def test_a_text_of_another_number_is_wrong(tmp_path: Path) -> None:
    """A text that was sent, but under another number or to another chat."""

    def fill(recorder: Recorder) -> None:
        recorder.record_outcome(
            RecordedOutcome.CREATED, APPLICATION, CHAT + 1, 1, digest("elsewhere")
        )
        for number, shown in ((1, text(2)), (2, digest("elsewhere")), (3, text(3))):
            recorder.record_shown(APPLICATION, CHAT, READER, number, shown)
        recorder.record_page(page([3, 2, 1]))

    audit = audited(tmp_path, fill)
    assert audit.pages
    assert faults(audit.pages) == {"wrong_text": 2}
    assert audit.deliveries is None


def page(
    numbers: Iterable[int], *, known: int = 0, before: int = 0, limit: int = 50
) -> RecordedPage:
    """A page of the chat with these numbers."""
    return RecordedPage.of(
        APPLICATION, CHAT, list(numbers), limit=limit, known=known, before=before
    )


def newest(last: int, count: int = 50) -> list[int]:
    """The numbers of a page that begins with this one."""
    return list(range(last, last - count, -1))


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (page(newest(SENT), known=SENT), ""),
        (page(newest(SENT), known=SENT - 5), ""),
        (page(newest(50), known=50, before=51), ""),
        (page([3, 2, 1], known=3), ""),
        (page([]), ""),
        (page(newest(SENT - 1), known=SENT), "stale"),
        (page(newest(49), known=50, before=51), "stale"),
        (page([], known=1), "stale"),
        (page(newest(SENT), known=SENT - 5)._replace(known=SENT + 1, not_modified=True), "stale"),
        (page([*newest(SENT, 20), *newest(SENT - 21, 30)]), "incomplete"),
        (page(newest(SENT, 49)), "incomplete"),
        (page([3, 2]), "incomplete"),
        (page([*newest(SENT, 20), SENT - 19, *newest(SENT - 20, 29)]), "disordered"),
        (page([SENT - 1, SENT, *newest(SENT - 2, 48)]), "disordered"),
        (page(newest(51), known=50, before=51), "disordered"),
    ],
)
def test_each_fault_of_a_page_is_found(shown: RecordedPage, found: str, tmp_path: Path) -> None:
    """A page is in order and dense, full or from the beginning, and has what was known to be stored."""
    audit = audited(tmp_path, lambda recorder: recorder.record_page(shown))
    assert audit.pages
    assert audit.pages.read == 1
    assert audit.pages.not_modified == shown.not_modified
    assert faults(audit.pages) == ({found: 1} if found else {})
    assert bool(audit.examples) == bool(found)
