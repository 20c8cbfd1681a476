"""Migrations to a given schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from backend.storage.postgres import schema_upgrade
from backend.storage.postgres.database import Connection

SCRIPTS = Config()
SCRIPTS.set_main_option(
    "script_location", str(Path(schema_upgrade.__file__).parent / "migrations").replace("%", "%%")
)


def migrate(tx: Connection, schema: str) -> None:
    """Migrate a database to the schema of a previous release."""
    SCRIPTS.attributes["connection"] = tx
    command.upgrade(SCRIPTS, schema)
