"""Steps: where an actor stops, so that the explorer chooses whose command is next.

An actor is a function in a thread of its own. It stops before each command or script that it sends to Redis,
before each transaction and each statement outside of one, and before each commit. What it does in between is
one step.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from backend.storage.redis.client import RedisClient
from tests.support.faults.killed import Killed
from tests.support.waiting import PATIENCE_SECONDS

# Commands that decide nothing: a notification may be lost, and memory is not short here.
_IGNORED = frozenset({"PUBLISH", "INFO"})
_local = threading.local()


class Actor(threading.Thread):
    """A function that runs step by step."""

    def __init__(self, name: str, body: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self.label = "begins"
        """What its next step does."""
        self.error: BaseException | None = None
        """What has ended it, if it did not return."""
        self.is_done = False
        self.is_killed = False
        self._body = body
        self._may_go = threading.Semaphore(0)
        self._stopped = threading.Event()

    def run(self) -> None:
        """See Thread."""
        _local.actor = self
        try:
            self.stop("begins")
            self._body()
        except BaseException as error:  # noqa: BLE001  # the explorer looks at it
            self.error = error
        finally:
            _local.actor = None
            self.is_done = True
            self._stopped.set()

    def stop(self, label: str) -> None:
        """Wait until the explorer chooses this actor. Called in its thread; raises Killed if it is killed."""
        if not self.is_killed:
            self.label = label
            self._stopped.set()
            assert self._may_go.acquire(timeout=PATIENCE_SECONDS)
        if self.is_killed:
            raise Killed

    def go(self, *, kill: bool = False) -> None:
        """Begin its next step, or end it there as a kill would."""
        self.is_killed = kill
        self._stopped.clear()
        self._may_go.release()

    def wait(self, seconds: float) -> bool:
        """Whether its step has ended, after so much time at most."""
        return self._stopped.wait(seconds)


@contextmanager
def stepping() -> Iterator[None]:
    """While inside, actors stop before each of their steps."""
    execute, pipeline = RedisClient._execute_untranslated, RedisClient._pipeline

    def stepped_execute(self: RedisClient, key: Any, command: Any) -> Any:
        _stop(command)
        return execute(self, key, command)

    def stepped_pipeline(self: RedisClient, key: Any, *commands: Any, **then: Any) -> Any:
        _stop(commands[0])
        return pipeline(self, key, *commands, **then)

    listeners = (
        ("begin", _note_begin),
        ("before_cursor_execute", _stop_at_statement),
        ("commit", _stop_at_commit),
    )
    RedisClient._execute_untranslated = stepped_execute  # type: ignore[method-assign]
    RedisClient._pipeline = stepped_pipeline  # type: ignore[method-assign]
    for name, listener in listeners:
        event.listen(Engine, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(Engine, name, listener)
        RedisClient._execute_untranslated = execute  # type: ignore[method-assign]
        RedisClient._pipeline = pipeline  # type: ignore[method-assign]


def _stop(command: Any) -> None:
    actor: Actor | None = getattr(_local, "actor", None)
    if actor and command[0] not in _IGNORED:
        actor.stop(f"Redis: {' '.join(map(str, command[:3]))}"[:80])


def _note_begin(connection: Connection) -> None:
    connection.info["first"] = True


def _stop_at_statement(connection: Connection, _: object, statement: str, *_others: object) -> None:
    actor: Actor | None = getattr(_local, "actor", None)
    is_alone = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
    is_first = connection.info.pop("first", False)
    if actor and (is_first or is_alone):
        actor.stop(f"SQL: {' '.join(statement.split())}"[:80])


def _stop_at_commit(connection: Connection) -> None:
    actor: Actor | None = getattr(_local, "actor", None)
    if actor is None:
        return
    try:
        actor.stop("COMMIT")
    except Killed:
        # SQLAlchemy takes the transaction for ended.
        connection.connection.rollback()
        raise
