"""Explores the orders in which the steps of a few actors can happen, each on new data.

Like CHESS, it bounds how often an actor is interrupted although it could go on: with two interruptions a few
hundred orders find nearly all that all orders find. It also ends actors before any of their steps, as a kill
would.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import psycopg2

from backend.domain.errors import InstaChatError
from tests.support.faults.killed import Killed
from tests.support.interleavings.steps import Actor, stepping
from tests.support.waiting import wait_until

STEP_SECONDS = 0.02  # after which it is looked whether a step waits for a lock
DEADLOCK_SECONDS = 10.0
_LOCK_WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


class Choice(NamedTuple):
    """What happens next: the step of an actor, or its end before that step."""

    actor: int
    kill: bool = False


class Bounds(NamedTuple):
    """How often an actor is interrupted, and killed, in one order at most; and how many orders are tried."""

    interruptions: int
    kills: int = 0
    orders: int = 1_000_000


class Play(Protocol):
    """Actors with new data of their own, and what holds at the end of every order of their steps."""

    def actors(self) -> Sequence[tuple[str, Callable[[], object]]]:
        """The names and functions of the actors."""

    def check(self, ended: Sequence[Actor]) -> None:
        """Raise AssertionError if something does not hold that is promised."""


@dataclass
class Order:
    """An order that was executed."""

    choices: list[Choice] = field(default_factory=list)
    alternatives: list[list[Choice]] = field(default_factory=list)
    """Of each choice, the others that were possible."""
    log: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass
class Exploration:
    """How many orders there were, and the first one that breaks a promise."""

    orders: int = 0
    broken: Order | None = None

    def __str__(self) -> str:
        if self.broken is None:
            return f"{self.orders:,} orders, all promises kept"
        steps = "\n".join(self.broken.log)
        return f"order {self.orders:,} of those tried breaks a promise:\n{steps}\n{self.broken.failure}"


class Explorer:
    """Explores plays on one database."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    def explore(self, play: Callable[[], Play], bounds: Bounds) -> Exploration:
        """Execute all orders within the bounds, each with a new play, until one breaks a promise."""
        result = Exploration()
        prefixes: list[list[Choice]] = [[]]
        with stepping(), closing(psycopg2.connect(self._database_url)) as observer:
            observer.autocommit = True
            _Execution(play(), observer).run([])  # so that the next ones find the same in memory
            while prefixes and result.orders < bounds.orders:
                prefix = prefixes.pop()
                order = _Execution(play(), observer).run(prefix)
                result.orders += 1
                if order.failure:
                    result.broken = order
                    break
                for place in range(len(prefix), len(order.choices)):
                    before = order.choices[:place]
                    prefixes += [
                        [*before, other]
                        for other in order.alternatives[place]
                        if _is_within(bounds, [*before, other], order)
                    ]
        return result


class _Execution:
    """One order of one play."""

    def __init__(self, play: Play, observer: "psycopg2.extensions.connection") -> None:
        self._play = play
        self._observer = observer
        self._actors = [Actor(name, body) for name, body in play.actors()]
        self._blocked: set[int] = set()
        self._order = Order()

    def run(self, prefix: Sequence[Choice]) -> Order:
        """Follow the choices of `prefix`, and interrupt nobody behind it."""
        for actor in self._actors:
            actor.start()
            actor.wait(60)
        last = -1
        while ready := self._ready() or self._released():
            place = len(self._order.choices)
            default = Choice(last if last in ready else ready[0])
            choice = prefix[place] if place < len(prefix) else default
            if (
                choice.actor not in ready
            ):  # a step that depends on the time; this order was explored
                choice = default
            options = [Choice(actor, kill) for actor in ready for kill in (False, True)]
            self._order.alternatives.append([other for other in options if other != choice])
            self._order.choices.append(choice)
            self._step(choice)
            last = choice.actor
        try:
            waiting = [
                f"{actor.name}: {actor.label}" for actor in self._actors if not actor.is_done
            ]
            assert not waiting, f"they wait for each other: {waiting}, {self._blocked}"
            for actor in self._actors:
                assert actor.error is None or isinstance(actor.error, InstaChatError | Killed), (
                    repr(actor.error)
                )
            self._play.check(self._actors)
        except (AssertionError, InstaChatError) as error:
            self._order.failure = str(error) or repr(error)
        return self._order

    def _ready(self) -> list[int]:
        return [
            nth
            for nth, actor in enumerate(self._actors)
            if not actor.is_done and nth not in self._blocked
        ]

    def _released(self) -> list[int]:
        """The actors that did wait for a lock, once all others have ended."""
        deadline = time.monotonic() + DEADLOCK_SECONDS
        while self._blocked and time.monotonic() < deadline:
            self._blocked = {
                nth for nth in self._blocked if not self._actors[nth].wait(STEP_SECONDS)
            }
            if ready := self._ready():
                return ready
        return []

    def _step(self, choice: Choice) -> None:
        actor = self._actors[choice.actor]
        does = "is killed before" if choice.kill else "does"
        self._order.log.append(f"  {actor.name} {does}: {actor.label}")
        actor.go(kill=choice.kill)
        while not actor.wait(STEP_SECONDS):
            if self._lock_waits() > len(self._blocked):
                self._blocked.add(choice.actor)
                break
        if self._blocked - {choice.actor}:
            wait_until(self._is_settled)

    def _is_settled(self) -> bool:
        """Whether each actor has ended its step, or still waits for a lock."""
        self._blocked = {nth for nth in self._blocked if not self._actors[nth].wait(0)}
        return self._lock_waits() >= len(self._blocked)

    def _lock_waits(self) -> int:
        with self._observer.cursor() as cursor:
            cursor.execute(_LOCK_WAITS)
            ((count,),) = cursor.fetchall()
        return int(count)


def _is_within(bounds: Bounds, choices: Sequence[Choice], order: Order) -> bool:
    kills = sum(choice.kill for choice in choices)
    interruptions = 0
    for place in range(1, len(choices)):
        last, choice = choices[place - 1], choices[place]
        could_go_on = {other.actor for other in order.alternatives[place]} | {
            order.choices[place].actor
        }
        if choice.actor != last.actor and last.actor in could_go_on:
            interruptions += 1
    return kills <= bounds.kills and interruptions <= bounds.interruptions
