"""What each fault of a run has cost: failures, latency, and the time until all was as before.

A second is as before if nothing failed in it, and its p99 (or its time from answer to stored, or to found) is
at most TOLERATED_FACTOR times the median of the seconds before the fault, plus a slack for a busy machine.
That has to hold for STEADY_SECONDS in a row. Times are to the second: a run is known second by second.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median

from loadtest.report.result import FaultEffect, Moment
from loadtest.run.faults import InjectedFault

COMPARED_SECONDS = 10  # before the fault, at most
STEADY_SECONDS = 3
TOLERATED_FACTOR = 2.0
ANSWER_SLACK_MS, STORED_SLACK_MS = 20.0, 200.0


def effects(injected: Sequence[InjectedFault], timeline: Sequence[Moment]) -> list[FaultEffect]:
    """The effect of each fault, until the next one or the end of the run."""
    found = []
    for place, fault in enumerate(injected):
        after_s = injected[place - 1].to_s if place else 0.0
        until_s = int(injected[place + 1].from_s) if place + 1 < len(injected) else math.inf
        part = [moment for moment in timeline if after_s <= moment.at_s < until_s]
        found.append(_effect(fault, part))
    return found


def _effect(fault: InjectedFault, part: Sequence[Moment]) -> FaultEffect:
    """Of one fault, from the seconds between its neighbours."""
    first = int(fault.from_s)
    before = [moment for moment in part if first - COMPARED_SECONDS <= moment.at_s < first]
    since = [moment for moment in part if moment.at_s >= first]
    answers = _usual([moment.p99_ms for moment in before], ANSWER_SLACK_MS)
    stores = _usual([moment.stored_ms for moment in before], STORED_SLACK_MS)
    finds = _usual([moment.searchable_ms for moment in before], STORED_SLACK_MS)
    p99s = [moment.p99_ms for moment in since if moment.p99_ms is not None]
    return FaultEffect(
        fault=str(fault.fault),
        from_s=round(fault.from_s, 2),
        to_s=round(fault.to_s, 2),
        failures=sum(moment.failures for moment in since),
        highest_p99_ms=max(p99s, default=None),
        answering_after_s=_seconds_until([not m.failures and answers(m.p99_ms) for m in since]),
        storing_after_s=_seconds_until([stores(m.stored_ms) for m in since]),
        finding_after_s=_seconds_until([finds(m.searchable_ms) for m in since]),
    )


def _usual(
    before: Sequence[float | None], slack_ms: float
) -> Callable[[float | None], bool | None]:
    """Whether a value is as before; None if it or what was before is not known."""
    known = [value for value in before if value is not None]
    limit = TOLERATED_FACTOR * median(known) + slack_ms if known else None
    return lambda value: None if limit is None or value is None else value <= limit


def _seconds_until(as_before: Sequence[bool | None]) -> int | None:
    """The first second from which on it is as before, for STEADY_SECONDS with a value; None if there is none.

    A second without a value, such as one in which nothing was due, interrupts nothing.
    """
    steady, begin = 0, 0
    for second, usual in enumerate(as_before):
        if usual is None:
            continue
        if not usual:
            steady, begin = 0, second + 1
        else:
            steady += 1
        if steady == STEADY_SECONDS:
            return begin
    return None
