"""Bringing a database to the current schema."""

from pathlib import Path

from sqlalchemy import text

from backend.storage.postgres import SCHEMA, Database

_ADVISORY_LOCK = 7_203_511  # any number; two migrations at once wait for each other


def upgrade(database: Database, *, dry_run: bool = False) -> tuple[str | None, str]:
    """Run the missing migrations in one transaction; returns the schema before and after.

    Idempotent, and safe to run from several processes at once. With `dry_run` nothing is written.
    Raises SchemaMismatch if the database is newer than this program.
    """
    found = database.schema()
    if found is not None and found > SCHEMA:
        database.check_schema()
    if found == SCHEMA or dry_run:
        return found, SCHEMA

    # Importing alembic takes a third of a second, and most commands have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    with database.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
        )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return found, SCHEMA
