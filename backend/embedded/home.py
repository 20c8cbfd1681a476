"""The folder of the private engines: what lies where, its locks, its logs, and the supervisor's state."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.domain import errors
from backend.domain.errors import EngineDown, InstaChatError, Invalid

POSTGRES = "postgres"
VALKEY = "valkey"
TITLES = {POSTGRES: "PostgreSQL", VALKEY: "Valkey"}
"""The engines: the name of each one's folder, locks and log, and what people call it."""

STRICT = "strict"

LOW_DISK_BYTES = 100_000_000
"""Bytes free on the home's disk, below which an engine that fails is blamed on the disk."""


@dataclass(frozen=True)
class Layout:
    """Where everything of one home is; `backend.embedded.private_engines` draws it."""

    home: Path

    @classmethod
    def of(cls, home: Path) -> "Layout":
        """The layout of a home, by its real path: two names of one folder are one home.

        Raises Invalid if the engines could not cope with the path.
        """
        if any(character < " " for character in str(home)):
            raise Invalid(
                f"INSTACHAT_HOME holds a control character: {str(home)!r}",
                "choose another INSTACHAT_HOME",
            )
        return cls(Path(os.path.realpath(home)))

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "log"

    @property
    def users_lock(self) -> Path:
        return self.run / "users.lock"

    @property
    def supervisor_lock(self) -> Path:
        return self.run / "supervisor.lock"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def sockets(self) -> Path:
        return self.run / "sockets"

    @property
    def programs(self) -> Path:
        return self.home / "engines"

    def wanted(self, what: str) -> Path:
        """The lock shared by those who want an engine, or `strict`."""
        return self.run / f"{what}.wanted"

    def alive(self, engine: str) -> Path:
        """The lock that all processes of an engine hold together."""
        return self.run / f"{engine}.alive"

    def data(self, engine: str) -> Path:
        return self.home / engine

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


# Folders


def make_home(layout: Layout) -> None:
    """Creates the home and, in it, what belongs to the user who runs this.

    As root, other users may pass through (the engines' user has to) but not look; else nobody may.
    A home that exists keeps its permissions. Raises Invalid if that can't be done, EngineDown if
    the disk is full.
    """
    as_root = os.geteuid() == 0
    passable = 0o711 if as_root else 0o700
    with translate_home_errors(layout):
        missing = [f for f in (layout.home, *layout.home.parents) if not f.exists()]
        for folder in reversed(missing):
            mode = passable if folder == layout.home else 0o755
            with suppress(FileExistsError):  # somebody else who starts at this moment
                _make_folder(folder, mode)
                if as_root:  # whatever its umask is, the engines' user must pass
                    folder.chmod(mode)
        ensure_owned_folder(layout.run, passable, os.geteuid())
        ensure_owned_folder(layout.logs, 0o700, os.geteuid())


def ensure_owned_folder(
    path: Path, mode: int, owner: int, group: int = -1, *, in_public: bool = False
) -> None:
    """Makes sure that `path` is a folder with that mode and owner (a user id), none of others'.

    Creates it if need be. One that has another mode is repaired, unless it is `in_public`, where all may
    create files: there it was never safe.

    Raises Invalid if it is a link, no folder, or another user's; OSError if it can't be made.
    """
    with suppress(FileExistsError):
        _make_folder(path, mode)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise Invalid(f"{path} is in the way: it is not a folder", _ANOTHER_HOME) from None
        raise
    try:
        found = os.fstat(folder)
        # Root's own may be left by a start that was killed before it gave the folder away.
        if found.st_uid not in (owner, os.geteuid()):
            problem = f"{path} belongs to another user (id {found.st_uid})"
            raise Invalid(problem, f"{_ANOTHER_HOME}, or give or remove that folder")
        if found.st_mode & 0o7777 != mode:
            if in_public:
                raise Invalid(f"{path} is open to other users", "remove it")
            os.fchmod(folder, mode)
        if found.st_uid != owner:
            os.fchown(folder, owner, group)
    finally:
        os.close(folder)


def _make_folder(path: Path, mode: int) -> None:
    path.mkdir(mode)
    with suppress(PermissionError):  # one may write to a folder that one can't read, hence not open
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Puts a folder's list of names on disk: what is inside a new one would be lost without its name."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def translate_home_errors(layout: Layout) -> Iterator[None]:
    """Turns an OSError about the home into Invalid, or EngineDown if its disk is full."""
    try:
        yield
    except OSError as error:
        where = error.filename or layout.home
        message = f"INSTACHAT_HOME {layout.home} can't be used: {error.strerror}: {where}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineDown(message, "make room on that disk, or " + _ANOTHER_HOME) from None
        raise Invalid(message, _ANOTHER_HOME) from None


_ANOTHER_HOME = "choose another INSTACHAT_HOME"


# Locks


def try_lock(path: Path, mode: int) -> int | None:
    """Takes a lock, shared or exclusive (`fcntl.LOCK_SH`, `LOCK_EX`), without waiting.

    Returns a descriptor whose closing, or the process's end, gives the lock up; None if it can't be had.
    A program that this process starts does not inherit it. Raises OSError if the file can't be opened.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def is_held(path: Path) -> bool:
    """Whether anybody holds the lock, shared or exclusive."""
    lock = try_lock(path, fcntl.LOCK_EX)
    if lock is None:
        return True
    os.close(lock)
    return False


# The supervisor's state


@dataclass(frozen=True)
class StartFailure:
    """Why an attempt to start an engine failed.

    `began` says when, by `time.monotonic`, a clock that all processes share.
    """

    kind: str
    message: str
    hint: str | None
    began: float

    def error(self) -> InstaChatError:
        """The error to raise for it."""
        kind: type[InstaChatError] = getattr(errors, self.kind)
        return kind(self.message, self.hint)


@dataclass(frozen=True)
class EngineState:
    """What the supervisor says of one engine."""

    sockets: str
    ready: bool = False
    strict: bool = False
    failure: StartFailure | None = None


State = dict[str, EngineState]
"""By engine: those that somebody has wanted since the supervisor started."""


class StateFile:
    """The supervisor's side of `state.json`."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state
        self._published: State | None = None
        self._lock: int | None = None

    def publish(self, state: State) -> None:
        """Replaces the state at once and whole, if it differs from the one before."""
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
        """From now on there is no state."""
        self._path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def read_state(layout: Layout) -> State | None:
    """What the supervisor says; None if none is alive, or it has nothing to say yet (or any more)."""
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


# Logs


def log_size(log: Path) -> int:
    """The log's length in bytes, 0 if there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def engine_down(layout: Layout, message: str, log: str, since: int = 0) -> EngineDown:
    """EngineDown with the log's path and the last lines that it got after byte `since`."""
    path = layout.log(log)
    return EngineDown(f"{message}; {_log_tail(path, since)}", _log_hint(layout))


def _log_tail(log: Path, since: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(since, log_size(log) - 4000))
            lines = file.read().decode(errors="replace").splitlines()[-5:]
    except OSError:
        lines = []
    if not lines:
        return f"its log, {log}, says nothing of it"
    return f"its log, {log}, ends with\n" + "\n".join(f"    {line}" for line in lines)


def _log_hint(layout: Layout) -> str:
    own = "or set INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL to engines of your own"
    with suppress(OSError):
        free = shutil.disk_usage(layout.home).free
        if free < LOW_DISK_BYTES:
            return f"make room: the disk of {layout.home} has {free / 1e6:.0f} MB left; {own}"
    return f"see that log; {own}"
