"""Migrations: what they say, and what they refuse."""

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import SchemaMismatch, Unavailable
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import messages, schema_upgrade
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema import SCHEMA, raise_compatible_since
from backend.storage.postgres.tables import message
from tests.conftest import Engines
from tests.support.migrations import SCRIPTS, migrate
from tests.support.schema_facts import Fact, not_additive, read_facts


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


def test_an_installation_from_before_the_64_shards_keeps_its_shards(engines: Engines) -> None:
    """It goes on in them. A new one has others."""
    url = engines.bare_database()
    database = Database(url)
    with database.begin() as tx:
        migrate(tx, "0008")
        tx.execute(text("DELETE FROM shard"))
        tx.execute(text("INSERT INTO shard (number) SELECT generate_series(0, 15)"))
        tx.execute(text("UPDATE installation SET shards = 16"))
    schema_upgrade.upgrade(database)
    assert database.installation.shards == range(16)
    with open_backend(engines.settings().model_copy(update={"database_url": url})) as backend:
        token = backend.catalog.applications.create("test").token
        accepted = backend.acceptor.accept(AcceptRequest.chats(token))
        assert accepted.shard in range(16)
        assert backend.drainer.drain_all() == 1

    new = Database(engines.bare_database())
    schema_upgrade.upgrade(new)
    assert new.installation.shards == range(16, 80)


def test_a_newer_schema_that_admits_this_program_is_used_as_it_is(backend: Backend) -> None:
    """A process of the previous release starts again after the migration of the next one."""
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert schema_upgrade.upgrade(backend.database) == ("9999", "9999")
    assert backend.database.check_schema().number == "9999"
    with open_backend(backend.settings) as restarted:
        token = restarted.catalog.applications.create("test").token
        restarted.acceptor.accept(AcceptRequest.chats(token))
        assert restarted.drainer.drain_all() == 1


def test_a_schema_that_admits_newer_programs_only_is_refused(
    backend: Backend, application: str
) -> None:
    """Also by the drain of a program that runs: it stores nothing in tables that it does not know."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        raise_compatible_since(tx, "9998")
        raise_compatible_since(tx, "0001")  # never lowered
    for call in (
        lambda: schema_upgrade.upgrade(backend.database),
        backend.database.check_schema,
        backend.drainer.drain_all,
        lambda: open_backend(backend.settings).__enter__(),
    ):
        with pytest.raises(SchemaMismatch, match="admits programs since 9998") as caught:
            call()
        assert caught.value.hint == "run a newer instachat"
    assert backend.log.waiting(backend.database.installation.shards) == 1


def test_a_table_or_column_that_was_removed_is_a_mismatch(backend: Backend) -> None:
    """The moment between the removal and the program's next check: not an unexpected error."""
    with backend.database.begin() as tx:
        tx.execute(text("ALTER TABLE application RENAME COLUMN name TO title"))
    with pytest.raises(SchemaMismatch, match="lacks"):
        backend.catalog.applications.create("test")


def test_a_migration_waits_for_a_lock_in_short_attempts(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long transaction neither has other programs wait behind the migration, nor makes it fail halfway."""
    monkeypatch.setattr(schema_upgrade, "LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(schema_upgrade, "RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(schema_upgrade, "MAX_ATTEMPTS", 3)
    database = Database(engines.bare_database())
    with database.begin() as tx:
        migrate(tx, "0006")
    with database.begin() as reader:
        reader.execute(text("SELECT FROM installation"))
        with pytest.raises(Unavailable, match="keep a table locked"):
            schema_upgrade.upgrade(database)
        with database.begin() as other:
            other.execute(text("SELECT FROM installation"))
    assert schema_upgrade.upgrade(database) == ("0006", SCHEMA)


def test_each_migration_only_adds_or_says_which_programs_it_admits(engines: Engines) -> None:
    """So that programs of the previous release can use the database during an upgrade.

    The migrations up to 0007 come before the rule; among them, the function that decides finds those that
    change or remove something.
    """
    scripts = list(ScriptDirectory.from_config(SCRIPTS).walk_revisions())[::-1]
    database = Database(engines.bare_database())
    changes: dict[str, list[str]] = {}
    facts: set[Fact] = set()
    for script in scripts:
        with database.begin() as tx:
            migrate(tx, script.revision)
            before, facts = facts, read_facts(tx)
        changes[script.revision] = not_additive(before, facts)
        admits = getattr(script.module, "compatible_since", None)
        assert admits is None or "0007" < admits <= script.revision, script
        if script.revision > "0007":
            assert admits or not changes[script.revision], script
    assert any("outbox" in change for change in changes["0002"])
    assert not any(changes[number] for number in ("0003", "0004", "0005", "0006", "0007"))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE chat DROP COLUMN rows_left",
        "ALTER TABLE chat RENAME COLUMN rows_left TO remaining",
        "ALTER TABLE chat ALTER COLUMN removed_at SET NOT NULL",
        "ALTER TABLE chat ALTER COLUMN number TYPE numeric",
        "ALTER TABLE chat ALTER COLUMN rows_left DROP DEFAULT",
        "ALTER TABLE chat ADD COLUMN author text NOT NULL",
        "ALTER TABLE chat ADD COLUMN half bigint GENERATED ALWAYS AS (number / 2) STORED",
        "ALTER TABLE chat ADD CHECK (number < 10)",
        "ALTER TABLE message ADD FOREIGN KEY (chat_id) REFERENCES chat",
        "CREATE UNIQUE INDEX ON message (version)",
        "DROP INDEX chat_rows_left",
        "ALTER TYPE row_state ADD VALUE 'archived'",
        "DROP TABLE message_block",
        "CREATE TRIGGER same BEFORE UPDATE ON chat EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
)
def test_a_change_that_older_programs_cannot_use_is_found(
    migrated: Database, statement: str
) -> None:
    assert changes_by(migrated, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE chat ADD COLUMN author text",
        "ALTER TABLE chat ADD COLUMN author text NOT NULL DEFAULT ''",
        "CREATE INDEX ON message (version)",
        "CREATE TABLE author (name text PRIMARY KEY, chat bigint REFERENCES chat)",
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
    ],
)
def test_an_addition_is_not_a_change(migrated: Database, statement: str) -> None:
    assert changes_by(migrated, statement) == []


@pytest.fixture(scope="module")
def migrated(engines: Engines) -> Database:
    """A database that is only changed in transactions which are rolled back."""
    return Database(engines.fresh_database())


def changes_by(database: Database, statement: str) -> list[str]:
    """What a statement changes or removes, according to the test of the migrations."""
    with database.begin() as tx:
        before = read_facts(tx)
        tx.execute(text(statement))
        after = read_facts(tx)
        tx.rollback()
    return not_additive(before, after)


def test_a_database_without_tables_is_reported_with_the_command_to_run(engines: Engines) -> None:
    """The error does not name a missing table."""
    with pytest.raises(SchemaMismatch) as caught:
        Database(engines.postgres.url("postgres")).check_schema()
    assert "instachat migrate" in str(caught.value.hint)
