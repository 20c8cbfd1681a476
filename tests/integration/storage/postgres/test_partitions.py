"""Partitions of the messages: the same table for every statement, and one partition's index for a chat."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import Unavailable
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import partitions
from backend.storage.postgres.database import Database
from backend.storage.postgres.partitions import count_partitions, partition_messages
from tests.conftest import Engines
from tests.integration.storage.postgres.test_statements import (
    HOT,
    explain,
    filled_database,
    scanned,
)
from tests.integration.storage.postgres.test_tables import COLUMNS, CONSTRAINTS, INDEXES
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("partitions")  # they share a large database
# Of one chat, by its id or by its application's token.
OF_ONE_CHAT = (
    *("message", "messages", "newest_messages", "numbered_messages", "search_messages"),
    *("filter_candidates", "range_end", "edit", "remove"),
)


@pytest.fixture(scope="module")
def partitioned(engines: Engines) -> Database:
    """A database with many rows and four partitions."""
    database = filled_database(engines)
    assert partition_messages(database, 4) == 1
    return database


@pytest.mark.parametrize("name", sorted(HOT))
def test_an_index_serves_each_hot_query(partitioned: Database, name: str) -> None:
    """As without partitions."""
    plan = explain(partitioned, name)
    assert not scanned(plan), "\n".join(plan)


@pytest.mark.parametrize("name", OF_ONE_CHAT)
def test_a_query_of_one_chat_reads_one_partition(partitioned: Database, name: str) -> None:
    plan = explain(partitioned, name, "ANALYZE, COSTS OFF, TIMING OFF")
    scans = [line for line in plan if re.search(r"(Scan|Update) .*on message_\d", line)]
    read = {re.search(r"message_\d", line)[0] for line in scans if "never executed" not in line}  # type: ignore[index]
    assert len(read) == 1, "\n".join(plan)


def test_the_table_is_declared_as_before(engines: Engines) -> None:
    """Columns, keys and indexes have the names of the migrations, with partitions and after them."""
    database = Database(engines.fresh_database())

    def described() -> set[object]:
        with database.connect() as connection:
            rows = [
                row
                for query in (COLUMNS, CONSTRAINTS, INDEXES)
                for row in connection.execute(text(query))
            ]
        return {
            str(row).replace(" ON ONLY ", " ON ")
            for row in rows
            if not re.match(r"message_\d", row[0])
        }

    before = described()
    for count in (3, 2, 1):
        partition_messages(database, count)
        assert described() == before


def test_messages_are_accepted_and_read_while_they_are_copied(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain returns at once meanwhile, and stores them afterwards."""
    accept = AcceptRequest.messages(chat, 1, ["a text"])
    backend.acceptor.accept(accept)
    backend.drainer.drain_all()
    copy = partitions._copy
    with ThreadPoolExecutor(1) as threads:

        def use_and_copy(tx: object, count: int) -> None:
            def use() -> list[int]:
                backend.acceptor.accept(accept)
                backend.drainer.drain_all()
                return [each.number for each in backend.catalog.messages.list(chat, 1)]

            assert threads.submit(use).result(PATIENCE_SECONDS) == [1]
            copy(tx, count)  # type: ignore[arg-type]

        monkeypatch.setattr(partitions, "_copy", use_and_copy)
        assert partition_messages(backend.database, 2) == 1
    backend.drainer.drain_all()
    assert [each.number for each in backend.catalog.messages.list(chat, 1)] == [1, 2]


def test_a_long_transaction_is_waited_for(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In short attempts. If it does not end, nothing is changed."""
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(partitions, "RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(partitions, "MAX_ATTEMPTS", 1)
    with backend.database.snapshot() as reader:
        reader.execute(text("SELECT FROM message"))
        with pytest.raises(Unavailable, match="nothing was changed"):
            partition_messages(backend.database, 2)
        assert count_partitions(reader) == 1
        monkeypatch.setattr(partitions, "MAX_ATTEMPTS", 10_000)
        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(partition_messages, backend.database, 2)
            with backend.database.connect() as watch:
                waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                wait_until(lambda: watch.scalar(waiting))
            reader.rollback()
            assert done.result(PATIENCE_SECONDS) == 1
