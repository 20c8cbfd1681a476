"""An asynchronous standby of a test's PostgreSQL, which lags behind it and is promoted."""

import pwd
import shutil
import subprocess
from pathlib import Path

import psycopg2

from tests.support.engines import PostgresServer, Server, scratch_folder
from tests.support.faults.proxy import Proxy
from tests.support.waiting import wait_until

SOCKET = ".s.PGSQL.5432"


class Standby(Server):
    """A streaming standby. It is behind its primary from the moment of `fall_behind`."""

    def __init__(self, primary: PostgresServer) -> None:
        """The primary is restarted: its data are copied while it is stopped."""
        folder = scratch_folder("standby")
        self.link = Proxy(primary.folder / SOCKET)
        primary.stop()
        shutil.copytree(primary.data, folder / "data")
        primary.start()
        command = [
            str(folder / "data")
            if part == str(primary.data)
            else str(folder)
            if part == str(primary.folder)
            else part
            for part in primary.command
        ]
        super().__init__(command, folder, primary.user)
        (folder / "data" / "postmaster.opts").unlink(missing_ok=True)
        (folder / "data" / "standby.signal").touch()
        with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"primary_conninfo = 'host=127.0.0.1 port={self.link.port} user=postgres'\n"
            )
        if self.user:
            owner = pwd.getpwnam(self.user)
            subprocess.run(["chown", "-R", f"{owner.pw_uid}:{owner.pw_gid}", folder], check=True)
            folder.chmod(0o700)

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.folder / SOCKET

    def answers(self) -> bool:
        try:
            psycopg2.connect(self._url).close()
        except psycopg2.OperationalError:
            return False
        return True

    def wait_streaming(self, primary: PostgresServer) -> None:
        """Return once the primary sends it what it commits."""
        statement = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: primary.query(statement) == 1)

    def fall_behind(self) -> None:
        """Receive nothing any more."""
        self.link.lead_to(self.folder / "nowhere")

    def promote(self) -> None:
        """Become a primary, with what was received."""
        connection = psycopg2.connect(self._url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_promote()")
            assert cursor.fetchone() == (True,)
        connection.close()

    def remove(self) -> None:
        self.link.close()
        super().remove()

    @property
    def _url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"
