"""A trace: the state of a number, and the steps that its message has taken."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class TracedState(StrEnum):
    """What a number is now."""

    STORED = "stored"
    PENDING = "pending"
    """Accepted, and in the log; not stored yet."""
    REMOVED = "removed"
    """Deleted, by itself or with its chat or application."""
    DEAD = "dead"
    """Its creation was rejected."""
    LOST = "lost"
    """Issued, but nothing has its message."""
    UNDECIDED = "undecided"
    """Issued; what has its message could not be read now, or is about to store it."""
    NEVER_GIVEN = "never_given"
    """No message has got it yet."""


class TraceStep(NamedTuple):
    """One step. `at` is None if it is not known when it was; with `until`, it was between both.

    `seconds` have passed since the step before it, at most, if the times of both are known.
    """

    step: str
    at: datetime | None
    detail: str
    until: datetime | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MessageTrace:
    """What became of a number. `entry` is the log's entry that created its message, as `EPOCH-SEQUENCE`."""

    chat: int
    number: int
    state: TracedState
    detail: str
    version: int | None = None
    shard: int | None = None
    entry: str | None = None
    dead_letters: Sequence[str] = ()
    steps: Sequence[TraceStep] = field(default_factory=list)


def with_durations(steps: Sequence[TraceStep]) -> list[TraceStep]:
    """The steps, each with the seconds since the last one before it whose time is known."""
    found: list[TraceStep] = []
    before: datetime | None = None
    for step in steps:
        at = step.until or step.at
        seconds = None
        if at is not None and before is not None:
            seconds = max((at - before).total_seconds(), 0.0)
        found.append(step._replace(seconds=seconds))
        before = at or before
    return found
