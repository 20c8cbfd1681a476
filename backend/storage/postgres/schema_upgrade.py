"""Migrating a database to the current schema."""

from pathlib import Path

from backend.storage.postgres.database import Database
from backend.storage.postgres.locks import lock_migration
from backend.storage.postgres.tables import SCHEMA


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
        lock_migration(connection)
        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
        )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return found, SCHEMA
