"""The state that the supervisor publishes for the users of a home, in `state.json`."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass

from backend.domain import errors
from backend.domain.errors import InstaChatError
from backend.embedded.home import Layout
from backend.embedded.locks import try_lock


@dataclass(frozen=True)
class StartFailure:
    """Why an attempt to start an engine failed.

    `began` is the time of the attempt by `time.monotonic`, a clock that all processes share.
    """

    kind: str
    message: str
    hint: str | None
    began: float

    def error(self) -> InstaChatError:
        """The exception for this failure."""
        kind: type[InstaChatError] = getattr(errors, self.kind)
        return kind(self.message, self.hint)


@dataclass(frozen=True)
class EngineState:
    """The state of one engine."""

    sockets: str
    ready: bool = False
    strict: bool = False
    failure: StartFailure | None = None


State = dict[str, EngineState]
"""By engine: those that a user has needed since the supervisor started."""


class StateFile:
    """The supervisor's side of `state.json`."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state
        self._published: State | None = None
        self._lock: int | None = None

    def publish(self, state: State) -> None:
        """Replace the state atomically, if it has changed."""
        if state == self._published:
            return
        fresh = self._path.with_suffix(".new")
        lock = try_lock(fresh, fcntl.LOCK_EX)
        assert lock is not None, "there is one supervisor only"
        with open(lock, "w", closefd=False) as file:
            file.truncate()
            json.dump({name: asdict(report) for name, report in state.items()}, file)
        fresh.replace(self._path)
        self._release()
        self._lock, self._published = lock, dict(state)

    def retract(self) -> None:
        """Remove the state."""
        self._path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def read_state(layout: Layout) -> State | None:
    """The published state; None if no supervisor runs, or it has not published one or has removed it."""
    try:
        with layout.state.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse_state(file.read())
    except FileNotFoundError:
        pass
    return None


def _parse_state(text: str) -> State:
    state: State = {}
    for name, entry in json.loads(text).items():
        failure = entry.pop("failure")
        state[name] = EngineState(**entry, failure=StartFailure(**failure) if failure else None)
    return state
