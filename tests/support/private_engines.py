"""Homes of private engines for tests: their users, their processes, and the values they keep."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
from redis import Redis

from backend.embedded.account import SYSTEM_USER
from backend.embedded.home import Layout
from backend.embedded.locks import is_held
from backend.embedded.private_engines import PrivateEngines, acquire
from backend.settings import Durability
from tests.support.scratch import scratch_folder
from tests.support.waiting import PATIENCE_SECONDS, becomes_true

CODE = Path(__file__).parents[2]
AS_ROOT = os.geteuid() == 0
NOBODY_UID = pwd.getpwnam("nobody").pw_uid
as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can start processes of several users")


# -- homes --------------------------------------------------------------------------------------------


@contextmanager
def new_folder() -> Iterator[Path]:
    """A new folder that every user can traverse. Fails if a process that names it is left at the end."""
    folder = scratch_folder("embedded", elsewhere="/tmp")
    folder.chmod(0o755)
    try:
        yield folder
        eventually(lambda: not find_processes(str(folder)))
    finally:
        left = {process: process.cmdline() for process in find_processes(str(folder))}
        for process in left:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, "processes are left"


@contextmanager
def home_moved_to(home: Path, elsewhere: Path) -> Iterator[Path]:
    """The home under another path while the block runs; the engines have to be stopped at its end."""
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    home.rename(elsewhere)
    try:
        yield elsewhere
        assert eventually(lambda: stopped(elsewhere))
    finally:
        elsewhere.rename(home)


def mode_of(path: Path) -> int:
    """The permissions of a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


def engines_uid() -> int:
    """The user that the engines run as."""
    return pwd.getpwnam(SYSTEM_USER).pw_uid if AS_ROOT else os.geteuid()


# -- users --------------------------------------------------------------------------------------------


@contextmanager
def acquired(
    home: Path,
    durability: Durability = Durability.FAST,
    *,
    postgres: bool = True,
    valkey: bool = True,
) -> Iterator[PrivateEngines]:
    """A share in the engines; if it is the last one, the engines have stopped at the end of the block."""
    engines = acquire(home, durability, postgres=postgres, valkey=valkey)
    try:
        yield engines
    finally:
        engines.close(wait=True)


_USER_PROGRAM = """
import json, sys
from pathlib import Path
from backend.embedded.private_engines import acquire
from backend.domain.errors import InstaChatError
from backend.settings import Durability
try:
    share = acquire(Path(sys.argv[1]), Durability.FAST, postgres=True, valkey=True)
    print(json.dumps([share.database_url, share.redis_url]), flush=True)
    sys.stdin.read()
except InstaChatError as error:
    print(json.dumps([type(error).__name__, error.message, error.hint]))
"""


class UserProcess:
    """Another process that uses a home's engines until it is told to end."""

    def __init__(self, home: Path, python: str = sys.executable, **options: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(CODE), **options.pop("env", {})}
        self.process = subprocess.Popen(
            [python, "-c", _USER_PROGRAM, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
            **options,
        )

    def answer(self) -> list[str]:
        """The URLs of the engines, or the type, the message and the hint of the error."""
        assert self.process.stdout is not None
        answer: list[str] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        """Let the process release its share and end."""
        self.process.communicate(timeout=PATIENCE_SECONDS)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def sql(engines: PrivateEngines) -> Iterator[sqlalchemy.Connection]:
    """A connection, made from the URL as the program makes it."""
    assert engines.database_url
    engine = sqlalchemy.create_engine(engines.database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        yield connection


def query_value(engines: PrivateEngines, statement: str) -> Any:
    """The only value that a query returns."""
    with sql(engines) as connection:
        return connection.execute(sqlalchemy.text(statement)).scalar()


def redis_client(engines: PrivateEngines) -> Redis:
    """A client of the engines' Valkey."""
    assert engines.redis_url
    return Redis.from_url(engines.redis_url, decode_responses=True)


def write_both(engines: PrivateEngines) -> str:
    """Write a new value to both engines; returns it."""
    what = uuid.uuid4().hex
    with sql(engines) as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE IF NOT EXISTS kept (what text)"))
        connection.execute(sqlalchemy.text(f"INSERT INTO kept VALUES ('{what}')"))
        connection.commit()
    redis_client(engines).set(what, "kept")
    return what


def has_both(engines: PrivateEngines, what: str) -> bool:
    """Whether both engines still have a value that `write_both` has written; does not retry."""
    rows = query_value(engines, f"SELECT count(*) FROM kept WHERE what = '{what}'")
    return (rows, redis_client(engines).get(what)) == (1, "kept")


class NobodyAccount:
    """The user `nobody`, with a folder of its own and a Python that it can run."""

    def __init__(self, tmp_folder: Path) -> None:
        code = tmp_folder / "code"
        shutil.copytree(CODE / "backend", code / "backend")
        packages = [path for path in sys.path if path.endswith("-packages")]
        self.environment = {"PYTHONPATH": os.pathsep.join([str(code), *packages])}
        self.folder = tmp_folder / "nobody"
        self.folder.mkdir()
        os.chown(self.folder, NOBODY_UID, NOBODY_UID)
        self.python = self._python()

    def _python(self) -> str:
        check = "import backend.settings, psycopg2, psutil"
        for self.python in (sys.executable, "/usr/bin/python3"):
            with suppress(OSError, subprocess.CalledProcessError):
                self.run("-c", check)
                return self.python
        pytest.skip("the user nobody can't reach a Python with the packages")

    def run(self, *arguments: str) -> str:
        """The output of a Python program that runs as this user."""
        return subprocess.run(
            [self.python, *arguments],
            user=NOBODY_UID,
            group=NOBODY_UID,
            extra_groups=[],
            cwd="/",
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def user(self, home: Path, user: int = NOBODY_UID, group: int = NOBODY_UID) -> UserProcess:
        """A process of this user, or of another user and group, that uses a home's engines."""
        return UserProcess(
            home, self.python, env=self.environment, user=user, group=group, extra_groups=[]
        )


# -- processes ----------------------------------------------------------------------------------------


def find_processes(*words: str) -> list[psutil.Process]:
    """The running processes whose command line contains all the words."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and is_alive(process):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(process: psutil.Process) -> None:
    """kill -9; returns once the process has ended."""
    with suppress(psutil.NoSuchProcess):
        process.kill()
    while is_alive(process):
        time.sleep(0.0001)


def find_supervisor(home: Path) -> psutil.Process:
    """The supervisor of a home."""
    (process,) = find_processes("backend.embedded.supervisor", str(home))
    return process


def find_postmaster(home: Path) -> psutil.Process:
    """The main process of PostgreSQL of a home."""
    found = {process.pid: process for process in find_processes("postgres -D", str(home))}
    # A child that was forked just now has its parent's command line.
    (process,) = [process for process in found.values() if process.ppid() not in found]
    return process


def find_valkey(home: Path) -> psutil.Process:
    """The process of Valkey of a home."""
    (process,) = find_processes("valkey-server", str(home))
    return process


def find_backend(home: Path) -> psutil.Process:
    """A process of PostgreSQL whose unexpected end starts the crash recovery."""
    return next(p for p in find_postmaster(home).children() if "writer" in " ".join(p.cmdline()))


def processes_of(home: Path) -> list[psutil.Process]:
    """The users, the supervisor, and the engines with their child processes."""
    found = find_processes(str(home))
    for process in list(found):
        with suppress(psutil.NoSuchProcess):
            found += process.children()
    return found


def stopped(home: Path) -> bool:
    """Whether no process of a home runs, by its locks and by the list of processes."""
    layout = Layout.of(home)
    locks = [layout.supervisor_lock, layout.alive("postgres"), layout.alive("valkey")]
    programs = ("backend.embedded.supervisor", "postgres -D", "valkey-server")
    return not any(is_held(lock) for lock in locks) and not any(
        find_processes(program, str(home)) for program in programs
    )


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition holds within PATIENCE_SECONDS."""
    return becomes_true(condition)
