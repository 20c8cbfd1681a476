"""The statements: their plans, their memory, and what the schema guarantees."""

import re
import tracemalloc
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import pytest
import sqlalchemy
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.storage import postgres
from backend.storage.postgres import (
    grouped_reads,
    message_states,
    statements,
)
from backend.storage.postgres.database import Database
from tests.conftest import Engines

pytestmark = pytest.mark.xdist_group("statements")  # they share a large database
BIG = {"message", "message_block", "chat", "application", "outbox"}
for _module in iter_modules(postgres.__path__):
    import_module(f"{postgres.__name__}.{_module.name}")  # each registers its hot statements


@pytest.fixture(scope="module")
def full(engines: Engines) -> Database:
    """A database with so many rows that the planner has a choice."""
    return filled_database(engines)


def filled_database(engines: Engines) -> Database:
    """A new one like `full`."""
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
                INSERT INTO message_block (chat_id, block, earliest, latest)
                SELECT c, n, now(), now()
                FROM generate_series(1, 1000) c, generate_series(0, 99) n;
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
    "token_end": "token-8",
    "tokens": ["token-7", "token-8"],
    "number": 5,
    "numbers": [5, 6],
    "chat": 5,
    "chats": [5, 6],
    "parents": [5, 6],
    "chat_id": 50,
    "id": 50,
    "after": 5,
    "after_time": "2026-01-31T00:00:00Z",
    "after_id": 5,
    "before": 90,
    "afters": [5, 6],
    "after_tokens": ["token-7", ""],
    "since": "2026-01-31T00:00:00Z",
    "until": "2126-01-31T00:00:00Z",
    "size": 10,
    "blocks": [5, 6],
    "beyond": [50, 60],
    "earliest": ["2026-01-31T00:00:00Z"] * 2,
    "latest": ["2026-01-31T00:00:00Z"] * 2,
    "at": "2026-01-31T23:59:59Z",
    "limit": 50,
    "befores": [7, 8],
    "limits": [50, 51],
    "keyword": "x",
    "keywords": ["x", "y"],
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


def scanned(plan: Sequence[str]) -> set[str]:
    """The big tables that a plan reads from end to end; a partition counts as its table."""
    tables = [line.split(" on ")[1].split()[0] for line in plan if "Seq Scan on" in line]
    return {re.sub(r"_\d+$", "", table) for table in tables} & BIG


HOT = statements.HOT | {
    read.name: text(read.statement)
    for read in (
        *grouped_reads.ALL,
        grouped_reads.APPLICATION_PAGES,
        grouped_reads.APPLICATION_SETTINGS,
    )
}


@pytest.mark.parametrize("name", sorted(HOT))
def test_an_index_serves_each_hot_query(full: Database, name: str) -> None:
    """No hot query reads a big table from end to end."""
    plan = explain(full, name)
    assert not scanned(plan), "\n".join(plan)


def explain(database: Database, name: str, options: str = "COSTS OFF") -> Sequence[str]:
    """The plan of a hot statement; what it does is rolled back."""
    compiled = HOT[name].compile(dialect=database.engine.dialect)
    values = {key: VALUES.get(key, value) for key, value in compiled.params.items()}
    with database.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        plan = connection.exec_driver_sql(f"EXPLAIN ({options}) {compiled}", values).scalars().all()
        connection.exec_driver_sql("ROLLBACK")
    return plan


def test_the_check_of_plans_reports_a_missing_index(full: Database) -> None:
    """So the check above can fail."""
    with full.begin() as tx:
        plan = tx.execute(text("EXPLAIN SELECT * FROM message WHERE text = 'x'")).scalars().all()
    assert scanned(plan) == {"message"}


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
def test_numbers_and_tokens_are_unique_in_sql(full: Database, again: str) -> None:
    """(application, number), (chat, number) and the token have unique indexes."""
    with pytest.raises(sqlalchemy.exc.IntegrityError), full.begin() as tx:
        tx.execute(text(again))


def test_integers_have_64_bits_and_times_have_time_zones(full: Database) -> None:
    """No key is limited to two billion, and no time depends on the session's time zone."""
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
    """Reading a hundred thousand takes the memory of a few pages. The driver's own memory is not counted."""
    with full.snapshot() as snapshot:
        tracemalloc.start()
        try:
            found = sum(1 for _ in message_states.iter_states(snapshot, None))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == 100_000
    assert peak < 4 << 20


def test_chats_are_ordered_by_number_not_by_text(backend: Backend, application: str) -> None:
    """Chat 10 comes after chat 9."""
    backend.acceptor.accept(AcceptRequest.chats(application, 12))
    backend.drainer.drain_all()
    assert [chat.number for chat in backend.catalog.chats.list(application)] == list(range(1, 13))
    assert [chat.number for chat in backend.catalog.chats.list(application, after=9, limit=2)] == [
        10,
        11,
    ]
