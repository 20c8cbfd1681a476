"""Erasing what PostgreSQL's files still hold of texts whose rows do not have them any more."""

import time
from collections.abc import Callable

from sqlalchemy import text

from backend.domain.errors import Failed, Unavailable
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.interruptible import run_interruptibly

# The tables with texts; and the statistics of their columns, which have samples of them.
TABLES = ("message", "dead_letter", "pg_catalog.pg_statistic")
MAX_ATTEMPTS = 50
RETRY_SECONDS = 0.1
WAL_FILES = text("SELECT name FROM pg_ls_waldir()")
CURRENT_WAL_FILE = text("SELECT pg_walfile_name(pg_current_wal_lsn())")
# A switch of a file that has nothing in it does nothing.
SWITCH_WAL_FILE = text(
    "SELECT pg_logical_emit_message(false, 'instachat', 'erase'), pg_switch_wal()"
)


def rewrite_tables(database: Database) -> None:
    """Write the tables that hold texts anew, without their dead rows, and delete their old files.

    Each table is locked meanwhile: its rows can be neither read nor changed. What a transaction that is older
    than a deletion can still read is kept. Raises Failed if the role may not do that. A KeyboardInterrupt
    ends it, with the present table as it was.
    """
    with database.connect() as connection:
        run_interruptibly(connection, lambda: _rewrite_tables(connection))


def _rewrite_tables(connection: Connection) -> None:
    notices: list[str] = connection.connection.dbapi_connection.notices  # type: ignore[union-attr]
    for table in TABLES:
        notices.clear()
        analyze = "" if table.startswith("pg_catalog.") else ", ANALYZE"
        connection.exec_driver_sql(f"VACUUM (FULL{analyze}) {table}")
        if any("skipping" in notice for notice in notices):
            raise Failed(
                f"PostgreSQL does not let this role rewrite {table}",
                "run the command as the owner of the database",
            )


def erase_wal(database: Database) -> None:
    """Delete all files of the write-ahead log that exist now. For a superuser of a PostgreSQL of its own.

    A standby, an archive or a slot of replication would need them. Raises Unavailable if PostgreSQL keeps
    some.
    """
    with database.connect() as connection:
        run_interruptibly(connection, lambda: _with_recycling_off(connection, _erase_wal))


def _with_recycling_off(connection: Connection, work: Callable[[Connection], None]) -> None:
    """A file that is recycled gets another name, and keeps what it had until it is written over."""
    connection.exec_driver_sql("ALTER SYSTEM SET wal_recycle = off")
    connection.exec_driver_sql("SELECT pg_reload_conf()")
    try:
        work(connection)
    finally:
        connection.exec_driver_sql("ALTER SYSTEM RESET wal_recycle")
        connection.exec_driver_sql("SELECT pg_reload_conf()")


def _erase_wal(connection: Connection) -> None:
    found = set(connection.scalars(WAL_FILES))
    for _ in range(MAX_ATTEMPTS):
        # Files with later names were recycled before: they are used, and then deleted.
        while connection.scalar(CURRENT_WAL_FILE) <= max(found):
            connection.execute(SWITCH_WAL_FILE)
        connection.exec_driver_sql("CHECKPOINT")
        if not found.intersection(connection.scalars(WAL_FILES)):
            return
        time.sleep(RETRY_SECONDS)  # the checkpointer may not have heard of the setting yet
        found |= set(connection.scalars(WAL_FILES))
    raise Unavailable(
        "PostgreSQL keeps files of its write-ahead log",
        "end its standbys, and drop its replication slots; then try again",
    )
