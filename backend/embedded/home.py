"""The folder of the private engines: its layout, its creation, and its permissions."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backend.domain.errors import EngineDown, Invalid

POSTGRES = "postgres"
VALKEY = "valkey"
TITLES = {POSTGRES: "PostgreSQL", VALKEY: "Valkey"}
"""The engines: the name of each engine's folder, locks and log, and its name for users."""

STRICT = "strict"


@dataclass(frozen=True)
class Layout:
    """The paths inside one home; `backend.embedded.private_engines` shows them as a tree."""

    home: Path

    @classmethod
    def of(cls, home: Path) -> "Layout":
        """The layout of a home by its real path, so that two names of one folder are one home.

        Raises Invalid if the engines can't use the path.
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

    def wanted(self, name: str) -> Path:
        """The lock shared by all users that need an engine, or `strict`."""
        return self.run / f"{name}.wanted"

    def alive(self, engine: str) -> Path:
        """The lock that all processes of an engine share."""
        return self.run / f"{engine}.alive"

    def data(self, engine: str) -> Path:
        return self.home / engine

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def make_home(layout: Layout) -> None:
    """Create the home, and in it the folders that belong to the user of this process.

    As root, other users can pass through the home, because the engines' user must, but can't list it;
    otherwise they can do neither. An existing home keeps its permissions. Raises Invalid if a folder can't
    be created, EngineDown if the disk is full.
    """
    as_root = os.geteuid() == 0
    passable = 0o711 if as_root else 0o700
    with translate_home_errors(layout):
        missing = [f for f in (layout.home, *layout.home.parents) if not f.exists()]
        for folder in reversed(missing):
            mode = passable if folder == layout.home else 0o755
            with suppress(FileExistsError):  # another process that starts at the same time
                _make_folder(folder, mode)
                if as_root:  # against a restrictive umask: the engines' user must pass
                    folder.chmod(mode)
        ensure_owned_folder(layout.run, passable, os.geteuid())
        ensure_owned_folder(layout.logs, 0o700, os.geteuid())


def ensure_owned_folder(
    path: Path, mode: int, owner: int, group: int = -1, *, in_public: bool = False
) -> None:
    """Ensure that `path` is a folder with that mode and owner (a user id).

    Creates it if it is missing. Repairs another mode, unless the parent is `in_public`, where everybody may
    create files: such a folder was never safe.

    Raises Invalid if it is a link, not a folder, or owned by another user; OSError if it can't be created.
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
        # A start that was killed before it changed the owner may have left a folder of root's.
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
    with suppress(PermissionError):  # a folder that is writable but not readable can't be opened
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder's list of names to disk, without which the content of a new folder could be lost."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def translate_home_errors(layout: Layout) -> Iterator[None]:
    """Turn an OSError about the home into Invalid, or into EngineDown if its disk is full."""
    try:
        yield
    except OSError as error:
        where = error.filename or layout.home
        message = f"INSTACHAT_HOME {layout.home} can't be used: {error.strerror}: {where}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineDown(message, "make room on that disk, or " + _ANOTHER_HOME) from None
        raise Invalid(message, _ANOTHER_HOME) from None


_ANOTHER_HOME = "choose another INSTACHAT_HOME"
