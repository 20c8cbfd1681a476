"""The schema and its queries: migrations, uniqueness, plans, and errors in the program's words."""

import time
import tracemalloc
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, Failed, SchemaMismatch
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage import postgres
from backend.storage.postgres import (
    database,
    message_states,
    schema_upgrade,
    statements,
)
from backend.storage.postgres.database import PING_AFTER_IDLE_SECONDS, Database
from backend.storage.postgres.tables import SCHEMA
from tests.conftest import Engines
from tests.support.waiting import promised

BIG = {"message", "chat", "application", "outbox"}
for _module in iter_modules(postgres.__path__):
    import_module(f"{postgres.__name__}.{_module.name}")  # each registers its hot statements


@pytest.fixture(scope="module")
def full(engines: Engines) -> Database:
    """A database with enough rows for the planner to have a choice."""
    database = Database(engines.fresh_database())
    with database.begin() as tx:
        tx.execute(
            text(
                """
                INSERT INTO application (token, name, version)
                SELECT 'token-' || n, 'x', 1 FROM generate_series(1, 2000) n;
                INSERT INTO chat (application_id, number, created_at, updated_at)
                SELECT a, n, now(), now() FROM generate_series(1, 2000) a, generate_series(1, 10) n;
                INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
                SELECT c, n, 1, now(), now(), 'x', 'x'
                FROM generate_series(1, 1000) c, generate_series(1, 100) n;
                INSERT INTO outbox (chats, numbers, versions, leased_until)
                SELECT '{1,2}', '{3,4}', '{5,6}', CASE WHEN n < 10 THEN now() + interval '1 h' END
                FROM generate_series(1, 100000) n;
                """
            )
        )
    with database.connect() as connection:
        connection.execute(text("ANALYZE"))
    return database


VALUES = {
    "shard": 1,
    "token": "token-7",
    "tokens": ["token-7", "token-8"],
    "number": 5,
    "numbers": [5, 6],
    "chat": 5,
    "chats": [5, 6],
    "chat_id": 50,
    "id": 50,
    "after": 5,
    "at": "2026-01-31T23:59:59Z",
    "limit": 50,
    "keyword": "x",
    "text": "y",
    "folded": "y",
    "version": 1,
    "first": 1,
    "last": 9,
    "ids": [50, 51],
    "rows": 9,
    "messages": 9,
    "seconds": 9,
    "above": 9,
    "of_chat": 50,
    "of_number": 5,
    "old_version": 1,
    "new_text": "y",
    "new_folded": "y",
}


@pytest.mark.parametrize("name", sorted(statements.HOT))
def test_an_index_serves_each_hot_query(full: Database, name: str) -> None:
    """No hot query reads a big table from end to end."""
    compiled = statements.HOT[name].compile(dialect=full.engine.dialect)
    values = {key: VALUES.get(key, value) for key, value in compiled.params.items()}
    with full.begin() as tx:
        plan = tx.exec_driver_sql(f"EXPLAIN (COSTS OFF) {compiled}", values).scalars().all()
    scans = [line for line in plan if "Seq Scan on" in line]
    assert not [line for line in scans if line.split(" on ")[1].split()[0] in BIG], "\n".join(plan)


def test_the_plan_test_notices_a_missing_index(full: Database) -> None:
    """The check above can fail."""
    with full.begin() as tx:
        plan = tx.execute(text("EXPLAIN SELECT * FROM message WHERE text = 'x'")).scalars().all()
    assert any("Seq Scan on message" in line for line in plan)


@pytest.mark.parametrize(
    "again",
    [
        """INSERT INTO chat (application_id, number, created_at, updated_at)
           VALUES (1, 1, now(), now())""",
        """INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
           VALUES (1, 1, 1, now(), now(), '', '')""",
        "INSERT INTO application (token, name, version) VALUES ('token-1', 'x', 1)",
    ],
)
def test_a_number_is_there_once(full: Database, again: str) -> None:
    """(application, number), (chat, number) and the token are unique in SQL itself."""
    with pytest.raises(sqlalchemy.exc.IntegrityError), full.begin() as tx:
        tx.execute(text(again))


def test_columns_have_64_bits_and_time_zones(full: Database) -> None:
    """No key that ends at two billion, no time that depends on where it is read."""
    with full.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT table_name, column_name, data_type FROM information_schema.columns"
                " WHERE table_schema = 'public'"
            )
        ).all()
    assert not [row for row in rows if row[2] in {"integer", "timestamp without time zone"}]
    assert {row[2] for row in rows if row[1].endswith("_at")} == {"timestamp with time zone"}


def test_states_are_read_a_page_at_a_time(full: Database) -> None:
    """All hundred thousand take no more memory than a few pages do; the driver's own is not counted."""
    with full.snapshot() as snapshot:
        tracemalloc.start()
        try:
            found = sum(1 for _ in message_states.iter_states(snapshot, None))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == 100_000
    assert peak < 4 << 20


def test_chat_ten_comes_after_chat_nine(backend: Backend, application: str) -> None:
    """Numbers are numbers."""
    backend.acceptor.accept(AcceptRequest.chats(application, 12))
    backend.drainer.drain_all()
    assert [chat.number for chat in backend.catalog.chats.list(application)] == list(range(1, 13))
    assert [chat.number for chat in backend.catalog.chats.list(application, after=9, limit=2)] == [
        10,
        11,
    ]


# -- migrations ---------------------------------------------------------------------------------------


def test_the_program_knows_its_newest_migration() -> None:
    """`database.SCHEMA` is the head of the scripts."""
    config = Config()
    config.set_main_option(
        "script_location", str(Path(schema_upgrade.__file__).parent / "migrations")
    )
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_migrating_says_from_what_to_what_and_only_once(engines: Engines) -> None:
    """From nothing; then there is nothing to do."""
    database = Database(engines.bare_database())
    assert schema_upgrade.upgrade(database, dry_run=True) == (None, SCHEMA)
    assert database.schema() is None
    assert schema_upgrade.upgrade(database) == (None, SCHEMA)
    assert schema_upgrade.upgrade(database) == (SCHEMA, SCHEMA)


def test_a_newer_schema_is_refused(engines: Engines) -> None:
    """A program that does not know the schema must not touch it."""
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


def test_an_unmigrated_database_says_what_to_run(engines: Engines) -> None:
    """Not a missing table, but the command that makes it."""
    with pytest.raises(SchemaMismatch) as caught:
        Database(engines.postgres.url("postgres")).check_schema()
    assert "instachat migrate" in str(caught.value.hint)


# -- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@127.0.0.1:1/x", "postgresql://u:secret@/x?host=/nowhere"]
)
def test_an_unreachable_database_is_named_without_its_password(url: str) -> None:
    """Within five seconds, saying which and how to check it."""
    with pytest.raises(EngineDown) as caught, promised(5):
        Database(url).check_schema()
    said = f"{caught.value.message} {caught.value.hint}"
    assert "PostgreSQL" in said
    assert "INSTACHAT_DATABASE_URL" in said
    assert "secret" not in said


def test_an_unusable_url_is_named() -> None:
    """A typing error is no traceback."""
    with pytest.raises(Failed, match="can't be used"):
        Database("not a url")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://a/b", "postgresql+psycopg2://a/b"),
        ("postgres://a/b", "postgresql+psycopg2://a/b"),
        ("postgresql+psycopg2://a/b", "postgresql+psycopg2://a/b"),
    ],
)
def test_the_driver_is_psycopg2(given: str, used: str) -> None:
    """SQLAlchemy 2.1 takes `postgresql://` for psycopg 3."""
    assert database.dialect_url(given) == used


def test_a_restarted_server_costs_no_failed_call(backend: Backend, engines: Engines) -> None:
    """A pooled connection that died is replaced before it is used."""
    with backend.database.connect() as connection:
        name = connection.scalar(text("SELECT current_database()"))
    engines.postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    time.sleep(2 * PING_AFTER_IDLE_SECONDS)
    assert backend.database.schema() == SCHEMA
