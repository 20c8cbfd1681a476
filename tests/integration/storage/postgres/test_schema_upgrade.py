"""Migrations: what they say, and what they refuse."""

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from backend.bootstrap import open_backend
from backend.domain.errors import SchemaMismatch
from backend.settings import Settings
from backend.storage.postgres import messages, schema_upgrade
from backend.storage.postgres.database import Database
from backend.storage.postgres.tables import SCHEMA, message
from tests.conftest import Engines
from tests.support.migrations import SCRIPTS, migrate


def test_the_schema_of_the_program_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(SCRIPTS).get_heads() == [SCHEMA]


def test_upgrade_returns_the_old_and_the_new_schema(engines: Engines) -> None:
    """A second upgrade has nothing to do."""
    database = Database(engines.bare_database())
    assert schema_upgrade.upgrade(database, dry_run=True) == (None, SCHEMA)
    assert database.schema() is None
    assert schema_upgrade.upgrade(database) == (None, SCHEMA)
    assert schema_upgrade.upgrade(database) == (SCHEMA, SCHEMA)


def test_a_message_that_is_stored_keeps_its_text_alone(engines: Engines) -> None:
    """A field that was added later is null in it, and so in every message that lacks the field."""
    database = Database(engines.bare_database())
    with database.begin() as tx:
        migrate(tx, "0001")
        tx.execute(
            text("""
            INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
            VALUES (1, 1, 1, now(), now(), 'a text', 'a text')""")
        )
    schema_upgrade.upgrade(database)
    columns = [message.c[name] for name in messages.CONTENT]
    with database.connect() as connection:
        (stored,) = connection.execute(select(*columns)).mappings()
    assert stored == dict.fromkeys(messages.CONTENT) | {"text": "a text"}
    assert [column.server_default for column in columns] == [None] * len(columns)


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
