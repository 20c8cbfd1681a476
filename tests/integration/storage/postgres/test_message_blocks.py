"""Blocks of messages: what is recorded of them, and that a page reads few rows wherever it begins."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.events import MessagesCreated, to_micros
from backend.domain.model import MAX_NUMBER, MessageRange
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import message_blocks, messages, schema_upgrade
from backend.storage.postgres.database import Database
from backend.storage.postgres.message_blocks import (
    BLOCK_SIZE,
    StoredSpan,
    block_spans,
    record_blocks,
)
from backend.storage.postgres.schema import SCHEMA
from tests.conftest import Engines
from tests.support.migrations import migrate

pytestmark = pytest.mark.xdist_group("message blocks")  # they share a large database
CHAT, LIMIT, BLOCKS = 7, 50, 100
TOP = BLOCKS * BLOCK_SIZE + 9
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
FILL = """
    INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
    SELECT :chat, n, 1, cast(:epoch AS timestamptz) + n * interval '1 s', now(), 'x', 'x'
    FROM generate_series(1, :top) n"""
OTHERS = """
    INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
    SELECT c, n, 1, now(), now(), 'x', 'x'
    FROM generate_series(1001, 2000) c, generate_series(1, 100) n;
    INSERT INTO message_block (chat_id, block, earliest, latest)
    SELECT c, n, now(), now() FROM generate_series(2001, 2100) c, generate_series(0, 99) n;"""
BLOCK_ROWS = """
    SELECT block, earliest, latest FROM message_block WHERE chat_id = :chat ORDER BY block"""


def recorded(database: Database, chat: int = CHAT) -> list[tuple[int, datetime, datetime]]:
    """The recorded blocks of a chat, and their times."""
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(BLOCK_ROWS), {"chat": chat})]


def expected_blocks(top: int) -> list[tuple[int, datetime, datetime]]:
    """Those of a chat in which message N was created N seconds after the epoch."""
    return [
        (
            block,
            EPOCH + timedelta(seconds=max(block * BLOCK_SIZE, 1)),
            EPOCH + timedelta(seconds=(block + 1) * BLOCK_SIZE - 1),
        )
        for block in range(top // BLOCK_SIZE)
    ]


@pytest.fixture(scope="module")
def full(engines: Engines) -> Database:
    """A database with a chat of a hundred blocks, one second between each two messages, and with others."""
    database = Database(engines.fresh_database())
    with database.begin() as tx:
        tx.execute(text(FILL), {"chat": CHAT, "epoch": EPOCH, "top": TOP})
        record_blocks(tx, [StoredSpan(CHAT, TOP, TOP, EPOCH, EPOCH)], in_order=True)
        tx.execute(text(OTHERS))
    assert recorded(database) == expected_blocks(TOP)
    with database.begin() as tx:
        tx.execute(text("ANALYZE message, message_block"))
    return database


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("bounds", ["numbers", "since", "until", "times"])
def test_a_page_reads_few_rows_wherever_it_begins(
    full: Database, bounds: str, place: float, newest_first: bool
) -> None:
    """Its own, or those of two blocks and the last one."""
    begin = int(place * TOP)
    at = EPOCH + timedelta(seconds=begin)
    values: dict[str, Any] = {
        "chat_id": CHAT,
        "after": begin if bounds == "numbers" and not newest_first else 0,
        "before": begin if bounds == "numbers" and newest_first else MAX_NUMBER + 1,
        "since": at if bounds in {"since", "times"} else "-infinity",
        "until": at + timedelta(seconds=99) if bounds in {"until", "times"} else "infinity",
        "limit": LIMIT,
        "size": BLOCK_SIZE,
    }
    module: Any = messages if bounds == "numbers" else message_blocks
    statement = module.NEWEST_MESSAGES if newest_first else module.MESSAGES
    compiled = statement.compile(dialect=full.engine.dialect)
    used = {name: values[name] for name in compiled.params}
    with full.begin() as tx:
        tx.execute(text("SET LOCAL jit = off"))
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF, BUFFERS OFF) {compiled}"
        plan: Any = tx.exec_driver_sql(explain, used).scalar()
    nodes = list(walk(plan[0]["Plan"]))
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    most = LIMIT if bounds == "numbers" else 3 * BLOCK_SIZE
    assert rows_read(nodes, "message") <= most, json.dumps(plan, indent=1)
    assert rows_read(nodes, "message_block") <= BLOCKS + 2


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan."""
    yield node
    for inner in node.get("Plans", []):
        yield from walk(inner)


def rows_read(nodes: list[dict[str, Any]], table: str) -> float:
    """How many rows of a table a plan has read, those that it dropped included."""
    return sum(
        float(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
        for node in nodes
        if node.get("Relation Name") == table
    )


def test_the_events_of_a_chat_are_spans_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that lies in several blocks counts in each; a time may go back; a gap costs nothing."""
    monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
    far = 10**15
    events = [
        MessagesCreated("t" * 24, CHAT, first, ["text"] * count, micros)
        for first, count, micros in ((3, 2, 50), (5, 3, 20), (8, 1, 30), (9, 9, 10), (far, 1, 60))
    ]
    found = [
        (span.first, span.last, to_micros(span.earliest), to_micros(span.latest))
        for span in block_spans(CHAT, events)
    ]
    assert found == [
        (3, 3, 50, 50),
        (4, 7, 20, 50),
        (8, 11, 10, 30),
        (12, 15, 10, 10),
        (16, 17, 10, 10),
        (far, far, 60, 60),
    ]


def test_a_drain_records_each_block_that_it_fills(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a higher number is stored; in small requests, and in one that fills several blocks."""
    monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
    chat = backend.acceptor.accept(AcceptRequest.chats(application)).first
    blocks = []
    for count in (3, 1, 3, 1, 2, 15, 1):
        backend.acceptor.accept(AcceptRequest.messages(application, chat, ["text"] * count))
        backend.drainer.drain_all()
        with backend.database.connect() as connection:
            found = connection.scalars(text("SELECT block FROM message_block ORDER BY block"))
            blocks.append(list(found))
    assert blocks == [[], [0], [0], [0, 1], [0, 1], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]


def test_a_retried_dead_letter_is_found_by_its_time(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers are stored after higher ones, in a block that was recorded without them."""
    monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
    accept, drain = backend.acceptor.accept, backend.drainer.drain_all
    chat = accept(AcceptRequest.chats(application)).first
    drain()
    with backend.database.begin() as tx:  # as in a database that was restored from an older copy
        row = tx.execute(text("DELETE FROM chat RETURNING *")).mappings().one()
    accept(AcceptRequest.messages(application, chat, ["early"] * 3))
    drain()
    kept = {name: row[name] for name in ("id", "application_id", "number", "created_at")}
    with backend.database.begin() as tx:
        statement = """
            INSERT INTO chat (id, application_id, number, created_at, updated_at)
            OVERRIDING SYSTEM VALUE VALUES (:id, :application_id, :number, :created_at, :created_at)"""
        tx.execute(text(statement), kept)
    accept(AcceptRequest.messages(application, chat, ["late"] * 9))
    drain()
    (letter,) = backend.dead_letters.all()
    assert backend.dead_letters.retry(letter.letter.key) is None
    listed = list(backend.catalog.messages.list(application, chat))
    assert [message.number for message in listed] == list(range(1, 13))
    early = MessageRange(until=listed[3].created_at)
    found = backend.catalog.messages.list(application, chat, early)
    assert [message.text for message in found] == ["early"] * 3


def drop_rows(backend: Backend) -> None:
    """Delete the rows of what was removed."""
    backend.cascade_deleter.delete_all()


def test_a_deleted_chat_leaves_no_blocks(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the cascade of a chat nor that of an application does."""
    monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
    backend.acceptor.accept(AcceptRequest.chats(application, 2))
    for chat in (1, 2):
        backend.acceptor.accept(AcceptRequest.messages(application, chat, ["text"] * 9))
    backend.drainer.drain_all()

    def count() -> int:
        with backend.database.connect() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM message_block")) or 0)

    assert count() == 4
    backend.catalog.chats.delete(application, 1, cascade=True)
    drop_rows(backend)
    assert count() == 2
    backend.catalog.applications.delete(application, cascade=True)
    drop_rows(backend)
    assert count() == 0


def test_the_migration_records_what_is_stored(engines: Engines) -> None:
    """The same blocks as if they had been recorded when they were filled."""
    database = Database(engines.bare_database())
    with database.begin() as tx:
        migrate(tx, "0005")
        for chat, top in ((CHAT, 3 * BLOCK_SIZE), (CHAT + 1, BLOCK_SIZE - 1)):
            tx.execute(text(FILL), {"chat": chat, "epoch": EPOCH, "top": top})
    assert schema_upgrade.upgrade(database) == ("0005", SCHEMA)
    assert recorded(database) == expected_blocks(3 * BLOCK_SIZE)
    assert recorded(database, CHAT + 1) == []
