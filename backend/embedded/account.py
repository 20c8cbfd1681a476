"""The user that the engines run as: the current one, or the system user `instachat` if that is root.

PostgreSQL refuses to run as root, and neither engine should. The supervisor keeps running as root, so that it
can start them as the other user.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.domain.errors import Failed

SYSTEM_USER = "instachat"

OWN_ENGINES_HINT = "set INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL to engines of your own"


@dataclass(frozen=True)
class Account:
    """The engines' user."""

    name: str
    uid: int
    gid: int

    @property
    def needs_switch(self) -> bool:
        """Whether this process runs as another user (root) and has to switch to the engines' user."""
        return self.uid != os.geteuid()

    @contextmanager
    def as_engine_user(self) -> Iterator[None]:
        """Run the block with the permissions of the engines' user, access lists included.

        Only for a process with a single thread. Raises Failed if this machine does not let root switch users.
        """
        if not self.needs_switch:
            yield
            return
        groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
        try:
            os.setgroups([])
            os.setegid(self.gid)
            os.seteuid(self.uid)
        except PermissionError as error:
            problem = f"root can't act as the user {self.name} here: {error.strerror}"
            raise Failed(f"the private engines can't run: {problem}", OWN_ENGINES_HINT) from None
        try:
            yield
        finally:
            os.seteuid(uid)
            os.setegid(gid)
            os.setgroups(groups)

    def first_inaccessible(self, folder: Path) -> Path | None:
        """The topmost of `folder` and its parents that the user has no access to; None if it has to all."""
        with self.as_engine_user():
            for step in (*reversed(folder.parents), folder):
                if not os.access(step, os.X_OK, effective_ids=True):
                    return step
        return None

    def can_run(self, paths: Iterable[Path]) -> bool:
        """Whether the user can read all of these, execute the programs and enter the folders."""
        with self.as_engine_user():
            return all(os.access(p, os.R_OK | os.X_OK, effective_ids=True) for p in paths)


def engines_account() -> Account:
    """The user that the engines run as. If this process is root, the user is created if it does not exist.

    Raises Failed if that is impossible on this machine.
    """
    uid = os.geteuid()
    if uid == 0:
        return _system_account()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Failed(
            f"the private engines can't run as user id {uid}: it has no entry in the password database",
            f"run it as a user who has one, or {OWN_ENGINES_HINT}",
        ) from None
    return Account(entry.pw_name, uid, os.getegid())


def _system_account() -> Account:
    problem = ""
    for _ in range(3):  # another home's supervisor may be creating it at this moment
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            problem = _create_system_user()
        else:
            return Account(SYSTEM_USER, entry.pw_uid, entry.pw_gid)
    raise Failed(
        f"as root, the private engines need the system user {SYSTEM_USER};"
        f" it can't be created: {problem}",
        f"create it, run InstaChat as an ordinary user, or {OWN_ENGINES_HINT}",
    )


def _create_system_user() -> str:
    """Create the user; returns the error, if there was one."""
    # An ordinary user's PATH lacks the folders of these programs.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    shell = shutil.which("nologin", path=path) or "/bin/false"
    if program := shutil.which("useradd", path=path):
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        command = [program, *options, "--shell", shell, SYSTEM_USER]
    elif program := shutil.which("adduser", path=path):  # of BusyBox
        command = [program, "-S", "-D", "-H", "-h", "/nonexistent", "-s", shell, SYSTEM_USER]
    else:
        return "this machine has neither useradd nor adduser"
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stderr.strip() or f"{program} ended with {ended.returncode}"
