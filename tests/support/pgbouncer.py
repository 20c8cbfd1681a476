"""A real PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

import shutil
from pathlib import Path

import psycopg2
import pytest

from tests.support.engines import POOLED, Server, scratch_folder

PORT = 6432  # names the socket; nothing listens on TCP
SERVER_CONNECTIONS = 24  # fewer than the clients, so that they share them
# PgBouncer keeps these for each client, and sets them where they differ.
_TRACKED = (
    "application_name",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
)


class PgBouncer(Server):
    """A pooler whose clients get another server connection for each transaction, in turn.

    So a setting, a lock or a prepared statement of a session is missed at once, or left behind for others.
    """

    def __init__(
        self, binary: Path, postgres_socket: Path, user: str | None, idle_seconds: int
    ) -> None:
        """`user` is the system user, if another one than this process's.

        Connections to PostgreSQL that serve nobody for `idle_seconds` are closed, as those of a database
        that no test uses any more.
        """
        folder = scratch_folder("pgbouncer")
        (folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host={postgres_socket} user=postgres
            [pgbouncer]
            listen_port = {PORT}
            unix_socket_dir = {folder}
            auth_type = any
            pool_mode = transaction
            server_round_robin = 1
            server_idle_timeout = {idle_seconds}
            default_pool_size = {SERVER_CONNECTIONS}
            max_client_conn = 1000
            query_wait_timeout = 3
            server_login_retry = 0.5
            server_connect_timeout = 2
            """
        )
        if user:
            shutil.chown(folder, user)
        super().__init__([binary, folder / "pgbouncer.ini"], folder, user)

    def url(self, database: str) -> str:
        """The URL of a database for the settings."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={PORT}"

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.url("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True


def need_sessions() -> None:
    """Skip a test that inspects, sets or ends sessions of PostgreSQL if a pooler is in front of it."""
    if POOLED:
        pytest.skip("behind PgBouncer a client has no session of its own")


def left_behind(url: str) -> list[str]:
    """What clients have left in the server connections of a pooled database: settings, locks, statements.

    Asks each connection, as they serve transactions in turn; no other client may use the database.
    """
    connection = psycopg2.connect(url)
    connection.autocommit = True
    found: dict[int, list[str]] = {}
    with connection.cursor() as cursor:
        for _ in range(2 * SERVER_CONNECTIONS):
            cursor.execute(
                """
                SELECT pg_backend_pid(), ARRAY(
                    SELECT name || ' = ' || setting FROM pg_settings
                    WHERE source = 'session' AND name <> ALL (%s)
                    UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements
                    UNION ALL SELECT 'lock ' || objid FROM pg_locks
                    WHERE locktype = 'advisory' AND pid = pg_backend_pid())""",
                (list(_TRACKED),),
            )
            (row,) = cursor.fetchall()
            found[row[0]] = row[1]
    connection.close()
    return [each for of_one in found.values() for each in of_one]


def pgbouncer_binary() -> Path | None:
    """The machine's PgBouncer; None if there is none."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    return Path(found) if found else None
