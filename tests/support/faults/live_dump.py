"""A dump of a test's database, made and restored by PostgreSQL's own programs while the database is used."""

import subprocess

from tests.support.engines import PostgresServer, wheel_postgres

RESTORED = "restored"


class LiveDump:
    """A dump of one database of a server."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        self._database = database
        self._file = server.folder / "dump"

    def make(self) -> None:
        """Dump the database as it is now."""
        self._run("pg_dump", "--format=custom", f"--file={self._file}", self._database)

    def restore(self) -> None:
        """Restore the dump, and give it the place of the database, whose connections are closed."""
        self._server.execute(f"CREATE DATABASE {RESTORED}")
        self._run("pg_restore", f"--dbname={RESTORED}", str(self._file))
        self._server.execute(f"DROP DATABASE {self._database} WITH (FORCE)")
        self._server.execute(f"ALTER DATABASE {RESTORED} RENAME TO {self._database}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(wheel_postgres() / program), f"--host={self._server.folder}"]
        subprocess.run([*command, "--username=postgres", *arguments], check=True)
