"""`tables` declares what the migrations create: every column, default, constraint and index."""

import re
import warnings

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Table, TextClause, text

from backend.domain.model import CONTENT_CHECKS, Application, Chat
from backend.storage.postgres import chats, exports, imports, messages
from backend.storage.postgres.database import Database
from backend.storage.postgres.statements import field_names
from backend.storage.postgres.tables import application, chat, message, metadata
from backend.transfer.format import ApplicationLine, ChatLine, MessageLine
from tests.conftest import Engines

COLUMNS = """
    SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default,
           collation_name, is_identity, identity_generation, is_generated, generation_expression
    FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> 'alembic_version'"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
      AND conrelid::regclass::text <> 'alembic_version'"""
INDEXES = """
    SELECT tablename, indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'"""
PARTITIONS = """
    SELECT relname, pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid) FROM pg_class
    WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
      AND (relkind = 'p' OR relispartition)"""
OPTIONS = {"compare_type": True, "compare_server_default": True}


@pytest.fixture(scope="module")
def migrated(engines: Engines) -> Database:
    """A database that the migrations made."""
    return Database(engines.fresh_database())


@pytest.fixture(scope="module")
def declared(engines: Engines) -> Database:
    """A database that the declarations made."""
    database = Database(engines.bare_database())
    with database.begin() as tx:
        metadata.create_all(tx)
    return database


def test_autogenerate_finds_no_difference(migrated: Database) -> None:
    """Neither a difference nor a warning about something that Alembic cannot compare."""
    with migrated.connect() as connection, warnings.catch_warnings():
        warnings.simplefilter("error")
        context = MigrationContext.configure(connection, opts=OPTIONS)
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize(
    "query",
    [COLUMNS, CONSTRAINTS, INDEXES, PARTITIONS],
    ids=["columns", "keys", "index", "partitions"],
)
def test_the_declared_tables_equal_the_migrated_ones(
    migrated: Database, declared: Database, query: str
) -> None:
    """Columns' order, collations, checks and identities are compared, too; Alembic does not compare these."""
    with migrated.connect() as one, declared.connect() as other:
        expected, found = (set(each.execute(text(query)).all()) for each in (one, other))
    assert found == expected


def test_every_way_of_storing_a_message_names_every_column() -> None:
    """A column of `message` that one of them lacks would be lost there without an error."""
    columns = set(message.c.keys())
    set_by_sql = {"removed_at", "state", "first_lost"}
    times = {"created_at", "updated_at"}
    assert {*messages.MessageRow._fields, *times, *set_by_sql} == columns
    assert {*messages.COPY_COLUMNS, *set_by_sql} == columns
    assert set(imports.COPY_COLUMNS) == columns


APPLICATION_DEFAULTS = {
    *("id", "chats_issued", "chats_removed", "chats_count", "rows_left"),
    *("moves", "moved_from", "moved_at", "moved_epoch", "moved_sequence", "counters_left"),
    "current_token",  # the token of a line is the original one of a new application
}
CHAT_DEFAULTS = {"id", "messages_issued", "messages_removed", "messages_count", "rows_left"}


@pytest.mark.parametrize(
    ("statement", "table", "defaults"),
    [
        (imports.INSERT_APPLICATIONS, application, APPLICATION_DEFAULTS),
        (chats.INSERT, chat, CHAT_DEFAULTS | {"removed_at", "state", "first_lost"}),  # it is stored
        (imports.INSERT_CHATS, chat, CHAT_DEFAULTS),
    ],
    ids=["import applications", "new chats", "import chats"],
)
def test_every_way_of_storing_a_parent_names_every_column(
    statement: TextClause, table: Table, defaults: set[str]
) -> None:
    """Each column is set by the statement, or listed here because its default is right."""
    found = re.search(rf"INSERT INTO {table.name} \(([^)]+)\)", statement.text)
    assert found
    assert sorted([*found[1].split(", "), *defaults]) == sorted(table.c.keys())


def test_a_transfer_has_every_field_of_an_application() -> None:
    """A line has no version: an import makes it of `updated_at`. The count is not imported."""
    exported = {*field_names(Application)} - {"version"}
    assert exported <= {*exports.ExportedApplication._fields}
    for row_type in (ApplicationLine, imports.ImportedApplication, imports.StoredParent):
        assert exported - {"chats_count"} <= {*row_type._fields}


def test_a_transfer_has_every_field_of_a_chat() -> None:
    """The count is not imported. Where both kinds of parents are compared, a chat's number is `chat`."""
    exported = {*field_names(Chat)}
    assert exported <= {*exports.ExportedChat._fields}
    imported = exported - {"messages_count"}
    for row_type in (ChatLine, imports.ImportedChat):
        assert imported <= {*row_type._fields}
    assert imported - {"number"} | {"chat"} <= {*imports.StoredParent._fields}


def test_a_transfer_has_all_that_a_user_wrote() -> None:
    """Every field of the domain's Message that is neither its number nor kept by SQL itself."""
    content = set(messages.CONTENT)
    assert CONTENT_CHECKS.keys() == content
    for row_type in (messages.ImportedMessage, messages.ExportedMessage, MessageLine):
        assert content <= set(row_type._fields)
