"""Migrations: what they say, and what they refuse."""

from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from backend.bootstrap import open_backend
from backend.domain.errors import SchemaMismatch
from backend.settings import Settings
from backend.storage.postgres import (
    schema_upgrade,
)
from backend.storage.postgres.database import Database
from backend.storage.postgres.tables import SCHEMA
from tests.conftest import Engines


def test_the_schema_of_the_program_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option(
        "script_location", str(Path(schema_upgrade.__file__).parent / "migrations")
    )
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_upgrade_returns_the_old_and_the_new_schema(engines: Engines) -> None:
    """A second upgrade has nothing to do."""
    database = Database(engines.bare_database())
    assert schema_upgrade.upgrade(database, dry_run=True) == (None, SCHEMA)
    assert database.schema() is None
    assert schema_upgrade.upgrade(database) == (None, SCHEMA)
    assert schema_upgrade.upgrade(database) == (SCHEMA, SCHEMA)


def test_a_newer_schema_is_refused(engines: Engines) -> None:
    """A program that does not know the schema must not use it."""
    url = engines.fresh_database()
    database = Database(url)
    with database.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for call in (lambda: schema_upgrade.upgrade(database), database.check_schema):
        with pytest.raises(SchemaMismatch, match="newer"):
            call()
    with (
        pytest.raises(SchemaMismatch),
        open_backend(Settings(database_url=url, redis_url=engines.redis.url)),
    ):
        pass


def test_a_database_without_tables_is_reported_with_the_command_to_run(engines: Engines) -> None:
    """The error does not name a missing table."""
    with pytest.raises(SchemaMismatch) as caught:
        Database(engines.postgres.url("postgres")).check_schema()
    assert "instachat migrate" in str(caught.value.hint)
