"""A message as a register, and the decision whether its history is linearizable.

The method is Wing and Gong's: search for an order of the operations, each at one moment between its request
and its answer, in which every answer is right. It is done as in Lowe's just-in-time linearization ("Testing
for linearizability", 2017): the search goes through the answers in the order of time and keeps every
configuration (the register's state, and which unanswered operations have had their effect) that explains all
answers so far. So the first answer that no configuration explains is the culprit. A message is a key of its
own: a history is linearizable if that of each key is (Herlihy and Wing).

An operation that changes nothing takes effect as soon as its answer is right: no order needs it later.
"""

import math
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

NEVER = math.inf
MAX_CONFIGURATIONS = 20_000  # of one key at once; beyond that the history is not decided


class Phase(Enum):
    """What has become of a number."""

    ABSENT = auto()
    ACCEPTED = auto()
    """Created. It may be stored at any time, and reads that say so are right until one has shown it."""
    STORED = auto()
    GONE = auto()
    """Deleted, or its parent is: it never comes back."""


class State(NamedTuple):
    """The value of a register."""

    phase: Phase
    text: str = ""


ABSENT = State(Phase.ABSENT)
GONE = State(Phase.GONE)


class Act(Enum):
    """What an operation does, or says. `text` and `expected` are those of the operation."""

    CREATE = auto()
    CREATE_STORED = auto()
    """The answer said that it is stored."""
    EDIT = auto()
    """Changes the text, if it is `expected`, or whatever it is if that is None."""
    DELETE = auto()
    """Deletes the message, under the same condition."""
    CASCADE = auto()
    """Deletes the parent: the message is gone, and can't be created any more."""
    REFUSE_STALE = auto()
    """Says that the text is not the `expected` one."""
    SHOW = auto()
    """Says that it is stored, and its text."""
    SAY_ACCEPTED = auto()
    """Says that it is accepted, and not stored yet."""
    SAY_MISSING = auto()
    """Says that there is no such message."""
    SAY_DELETED = auto()
    """Says that there is no such message any more."""
    SAY_LOST = auto()
    """Says that there never was one, and never will be."""
    OMIT = auto()
    """Shows no message here: none is stored, or it lacks the keyword `text`."""


_EXISTING = (Phase.ACCEPTED, Phase.STORED)


def apply(act: Act, text: str, expected: str | None, state: State) -> State | None:
    """The state after an operation; None if it can't happen, or say this, in the state before."""
    phase = state.phase
    match act:
        case Act.CREATE | Act.CREATE_STORED:
            stored = act is Act.CREATE_STORED
            possible = phase is Phase.ABSENT
            return State(Phase.STORED if stored else Phase.ACCEPTED, text) if possible else None
        case Act.EDIT | Act.DELETE:
            if phase not in _EXISTING or expected not in (None, state.text):
                return None
            return GONE if act is Act.DELETE else State(Phase.STORED, text)
        case Act.CASCADE:
            return GONE
        case Act.SAY_LOST:
            return GONE if phase in (Phase.ABSENT, Phase.GONE) else None
        case Act.REFUSE_STALE:
            return state if phase in _EXISTING and state.text != expected else None
        case Act.SHOW:
            return State(Phase.STORED, text) if phase in _EXISTING and state.text == text else None
        case Act.SAY_ACCEPTED:
            return state if phase is Phase.ACCEPTED else None
        case Act.SAY_MISSING:
            return state if phase in (Phase.ABSENT, Phase.GONE) else None
        case Act.SAY_DELETED:
            return state if phase is Phase.GONE else None
        case Act.OMIT:
            return None if phase is Phase.STORED and text in state.text else state


class Operation(NamedTuple):
    """An operation on one key. `answered` is NEVER for one whose outcome nobody knows."""

    act: Act
    sent: float
    answered: float
    source: str
    """What was asked: `read`, `page`, `search`, …"""
    server: int
    text: str = ""
    expected: str | None = None

    def apply(self, state: State) -> State | None:
        """As `apply`."""
        return apply(self.act, self.text, self.expected, state)


class Undecided(Exception):
    """There are too many possible orders."""


_Configuration = tuple[State, frozenset[int]]


def first_unexplained(operations: Iterable[Operation]) -> Operation | None:
    """The first operation, in the order of answers, whose answer no order explains; None if all are right.

    Raises Undecided if it would take too long to tell.
    """
    ordered = sorted(operations, key=lambda operation: operation.sent)
    moments = sorted(
        [(operation.sent, 0, nth) for nth, operation in enumerate(ordered)]
        + [
            (operation.answered, 1, nth)
            for nth, operation in enumerate(ordered)
            if operation.answered < NEVER
        ]
    )
    pending: set[int] = set()
    configurations: set[_Configuration] = {(ABSENT, frozenset())}
    for _, is_answer, nth in moments:
        if not is_answer:
            pending.add(nth)
            continue
        configurations = _explain(configurations, nth, ordered, pending)
        if not configurations:
            return ordered[nth]
        pending.discard(nth)
        configurations = {(state, done - {nth}) for state, done in configurations}
    return None


def _explain(
    configurations: set[_Configuration],
    wanted: int,
    ordered: Sequence[Operation],
    pending: set[int],
) -> set[_Configuration]:
    """Every configuration in which the wanted operation has had its effect, and no more than it takes."""
    reached: set[_Configuration] = set()
    seen: set[_Configuration] = set()
    waiting = list(configurations)
    while waiting:
        state, done = waiting.pop()
        done |= {
            nth for nth in pending if nth not in done and ordered[nth].apply(state) == state
        }  # what is right now and changes nothing
        if (state, done) in seen:
            continue
        seen.add((state, done))
        if len(seen) > MAX_CONFIGURATIONS:
            raise Undecided
        if wanted in done:
            reached.add((state, done))
            continue
        for nth in pending - done:
            after = ordered[nth].apply(state)
            if after is not None:
                waiting.append((after, done | {nth}))
    return reached
