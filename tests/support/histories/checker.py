"""Decides whether a server that keeps its promises could have given the answers of a history.

    python -m tests.support.histories.checker FILE

prints what no order of the requests explains, and exits with 4 if there is anything.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.histories.counts import wrong_counts
from tests.support.histories.exchanges import Exchange, read_history
from tests.support.histories.interpretation import Interpretation, interpret
from tests.support.histories.register import (
    Act,
    Operation,
    Undecided,
    first_unexplained,
)
from tests.support.histories.violations import Kind, Violation

FAILED_EXIT_CODE = 4
MAX_PRINTED = 50


def check(history: Sequence[Exchange]) -> list[Violation]:
    """What is wrong with a history; the first fault of each message, and each other fault."""
    found = interpret(history)
    return [*found.violations, *_wrong_registers(found), *_wrong_counts(found)]


def _wrong_registers(found: Interpretation) -> Iterator[Violation]:
    for key, operations in found.operations.items():
        try:
            culprit = first_unexplained(operations)
        except Undecided:
            yield Violation(Kind.UNDECIDED, f"{key}: {len(operations)} operations")
            continue
        if culprit is not None:
            yield Violation(_name(culprit, operations), f"{key}: {_describe(culprit, operations)}")


def _wrong_counts(found: Interpretation) -> Iterator[Violation]:
    for parent, readings in found.readings.items():
        for wrong in wrong_counts(found.changes[parent], readings):
            exchange = wrong.reading.exchange
            yield Violation(
                Kind.COUNT_TORN if wrong.is_torn else Kind.COUNT_WRONG,
                f"{parent}: {wrong.reading.shown} was answered from {exchange.sent:.4f} to"
                f" {exchange.answered:.4f}, when there were {wrong.least} to {wrong.most}",
            )


def _name(culprit: Operation, operations: Sequence[Operation]) -> Kind:
    """What the first wrong answer is a case of."""
    before = [one for one in operations if one.answered < culprit.sent]
    is_deleted = any(one.act in (Act.DELETE, Act.CASCADE, Act.SAY_DELETED) for one in before)
    match culprit.act:
        case Act.SHOW if is_deleted:
            return Kind.COMES_BACK
        case Act.SHOW if culprit.source == "search":
            return Kind.SEARCH_SHOWS_EDITED
        case Act.SHOW:
            return Kind.STALE_READ if _was_edited_away(culprit, before) else Kind.READS_GO_BACK
        case Act.SAY_ACCEPTED:
            return Kind.COMES_BACK if is_deleted else Kind.READS_GO_BACK
        case Act.OMIT:
            return Kind.SEARCH_MISSES if culprit.source == "search" else Kind.PAGE_SKIPS
        case Act.SAY_MISSING | Act.SAY_DELETED | Act.SAY_LOST:
            return Kind.LOST
        case Act.EDIT | Act.DELETE if is_deleted:
            return Kind.CHANGED_AFTER_DELETION
        case Act.EDIT | Act.DELETE if culprit.expected is not None:
            return Kind.LOST_UPDATE
        case Act.REFUSE_STALE:
            return Kind.REFUSED_WITHOUT_REASON
        case Act.CREATE | Act.CREATE_STORED if is_deleted:
            return Kind.CREATED_AFTER_DELETION
        case _:
            return Kind.UNEXPECTED_ANSWER


def _was_edited_away(culprit: Operation, before: Sequence[Operation]) -> bool:
    """Whether the text was written before an edit began that was answered before this was asked."""
    written = next(
        (one.sent for one in before if one.text == culprit.text and one.act is Act.EDIT), 0.0
    )
    return any(
        one.act is Act.EDIT and one.text != culprit.text and one.sent > written for one in before
    )


def _describe(culprit: Operation, operations: Sequence[Operation]) -> str:
    """The operation, and the writes that were under way, or had ended, before it was answered."""
    writes = [
        one
        for one in operations
        if one.act in (Act.CREATE, Act.CREATE_STORED, Act.EDIT, Act.DELETE, Act.CASCADE)
        and one.sent < culprit.answered
    ]
    return "; ".join(map(_say, [culprit, *writes[-6:]]))


def _say(operation: Operation) -> str:
    return (
        f"{operation.source} {operation.act.name} {operation.text!r} {operation.expected or ''}"
        f" by server {operation.server} from {operation.sent:.4f} to {operation.answered:.4f}"
    )


def main() -> None:
    """Check the history in a file."""
    violations = check(list(read_history(Path(sys.argv[1]))))
    for violation in violations[:MAX_PRINTED]:
        sys.stdout.write(f"{violation}\n")
    sys.stdout.write(f"{len(violations)} violations\n")
    sys.exit(FAILED_EXIT_CODE if violations else 0)


if __name__ == "__main__":
    main()
