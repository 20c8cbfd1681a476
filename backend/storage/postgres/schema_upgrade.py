"""Migrating a database to the schema of this program, while other programs use it."""

import time
from pathlib import Path

from backend.domain.errors import Unavailable
from backend.storage.postgres.database import Connection, Database, sqlstate
from backend.storage.postgres.locks import lock_migration
from backend.storage.postgres.schema import SCHEMA, read_schema

# While a migration waits for a table's lock, all others who want the table wait behind it.
LOCK_TIMEOUT_SECONDS = 2
RETRY_DELAY_SECONDS = 1.0
MAX_ATTEMPTS = 40  # about two minutes
LOCK_ERRORS = ("55P03", "40P01")  # the lock was not free in time; a deadlock


def upgrade(database: Database, *, dry_run: bool = False) -> tuple[str | None, str]:
    """Run the missing migrations; returns the schema before and after.

    Each migration is a transaction of its own, so that no lock outlives it; the first ones, on a database
    without tables, share one. Idempotent, and safe to run from several processes at once. With `dry_run`
    nothing is written. A database with a newer schema that admits this program is left as it is.

    Raises SchemaMismatch if a newer schema does not admit this program, and Unavailable if other transactions
    keep a table locked for about two minutes; the migrations that have run by then remain.
    """
    found = database.schema()
    before = found.number if found else None
    if found and found.number >= SCHEMA:
        if mismatch := found.mismatch():
            raise mismatch
        return found.number, found.number
    if dry_run:
        return before, SCHEMA
    attempts = 0
    while True:
        try:
            if _migrate_once(database):
                return before, SCHEMA
            attempts = 0
        except Unavailable as error:
            attempts += 1
            if sqlstate(error.__cause__ or error) not in LOCK_ERRORS:
                raise
            if attempts == MAX_ATTEMPTS:
                raise Unavailable(
                    "other transactions keep a table locked that a migration changes",
                    "end them (see pg_stat_activity), and run `instachat migrate` again",
                ) from error
            time.sleep(RETRY_DELAY_SECONDS)


def _migrate_once(database: Database) -> bool:
    """Run the next migration, or all of them on a database without tables; returns whether none is left."""
    with database.begin() as tx:
        lock_migration(tx)
        found = read_schema(tx)
        if found and found.number >= SCHEMA:
            return True
        if found:
            tx.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        _run_scripts(tx, "+1" if found else "head")
    return found is None


def _run_scripts(tx: Connection, target: str) -> None:
    # Importing alembic takes a third of a second, and most commands have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
    )
    config.attributes["connection"] = tx
    command.upgrade(config, target)
