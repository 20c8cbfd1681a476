"""Imports beside writers, deletions, a locked shard and other imports: every number keeps its one message."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Conflict, Invalid, Unavailable
from backend.ingest import direct_write
from backend.ingest.barrier import Barrier
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.storage.postgres import locks, shards
from backend.transfer import format as line_format
from backend.transfer import importer
from backend.transfer.diff import compare
from backend.transfer.format import LineChunk
from backend.transfer.importer import Importer
from tests.conftest import Engines
from tests.support.faults.shortcuts import send
from tests.support.repeating import repeating
from tests.support.transfer import (
    TOKEN,
    after_step,
    application_body,
    chat_body,
    count_dead_letters,
    describe_faults,
    import_lines,
    locate_faults,
    message_body,
    new_installation,
    query,
    read_chat,
    to_bytes,
)


def test_concurrent_imports_of_the_same_file_store_each_line_once(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each import skips the lines that another one has stored."""
    monkeypatch.setattr(line_format, "CHUNK_LINES", 50)
    lines = [application_body(), *(chat_body(n) for n in range(1, 4))]
    lines += [message_body(n, chat=c) for c in range(1, 4) for n in range(1, 201)]
    with new_installation(engines) as backend, ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(import_lines, backend, lines) for _ in range(3)]
        assert [run.result()[1] for run in runs] == [[], [], []]
        assert sum(run.result()[0].counts.stored for run in runs) == len(lines)
        assert query(backend, "SELECT count(*), sum(number) FROM message") == [(600, 60_300)]


def test_messages_accepted_before_the_counters_are_raised_keep_their_numbers(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines with these numbers are conflicts, although they were new when the import compared them."""
    with after_step(monkeypatch, "compared", lambda: send(one_message, TOKEN, "a", "b")):
        work, faults = import_lines(one_message, list(map(message_body, range(1, 11))))
    assert locate_faults(faults) == [(2, Conflict)]
    assert work.counts.stored == 0
    assert read_chat(one_message) == ([(1, "text 1"), (2, "a"), (3, "b")], 11)


def test_messages_accepted_after_the_counters_are_raised_get_numbers_above_the_import(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accept issues no number of the chunk, although its rows are not written yet."""
    with after_step(monkeypatch, "raised", lambda: send(one_message, TOKEN, "a")):
        assert import_lines(one_message, [message_body(7)])[1] == []
    assert read_chat(one_message) == ([(1, "text 1"), (7, "text 7"), (8, "a")], 9)


@pytest.mark.parametrize("step", ["compared", "raised"])
def test_a_chat_deleted_during_an_import_gets_no_messages(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The import reports that the chat is removed, and stores none of its lines."""
    import_lines(one_message, [chat_body(2)])
    with after_step(monkeypatch, step, lambda: one_message.catalog.chats.delete(TOKEN, 2)):
        faults = describe_faults(import_lines(one_message, [message_body(chat=2)])[1])
    assert faults == [(1, Invalid, "chat 2 is removed, so nothing belongs to it")]
    assert read_chat(one_message)[0] == [(1, "text 1")]


@pytest.mark.parametrize("name", ["instachat drain {}", "somebody"])
def test_an_import_ends_a_stuck_drain_and_reports_any_other_lock(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A drain that holds the shard's lock and makes no progress is ended; else the import is Unavailable."""
    monkeypatch.setattr(direct_write, "LOCK_TIMEOUT_SECONDS", 0.1)
    shard = one_message.counters.shard(TOKEN)
    epochs = Epochs(one_message.log, one_message.database)
    drainer = Drainer(one_message.log, one_message.database, epochs, stuck_timeout_seconds=0.2)
    barrier = Barrier(one_message.log, one_message.database, epochs, drainer)
    writer = direct_write.DirectWriter(
        one_message.log, one_message.database, epochs, one_message.routing, barrier, drainer
    )
    work = Importer(
        one_message.log,
        one_message.database,
        one_message.routing,
        barrier,
        writer,
        one_message.tokens,
    ).begin()
    chunk = LineChunk(1, [to_bytes([message_body(2)])], 1)
    holder = one_message.database.engine.connect()
    try:
        locks.name_transaction(holder, name.format(shard))
        assert shards.lock_shard(holder, shard)
        if name == "somebody":
            with pytest.raises(Unavailable, match="locked for too long"):
                work.process(chunk)
        else:
            assert work.process(chunk) == []
    finally:
        holder.invalidate()
        holder.close()
    assert work.process(chunk) == []
    assert read_chat(one_message)[0] == [(1, "text 1"), (2, "text 2")]


def reserved(backend: Backend) -> bool:
    """Whether numbers that are not stored may still be stored by an import."""
    with backend.database.begin() as tx:
        return not locks.try_exclude_reservations(tx, backend.counters.shard(TOKEN))


def test_an_import_that_is_repeated_keeps_its_numbers_reserved(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two attempts, numbers below a stored one are not called lost."""
    found: list[bool] = []

    def look_then_compare(*arguments: Any) -> Any:
        found.append(reserved(one_message))
        return compare(*arguments)

    def delete_chat() -> None:
        one_message.catalog.chats.delete(TOKEN, 2)

    import_lines(one_message, [chat_body(2)])
    monkeypatch.setattr(importer, "compare", look_then_compare)
    with after_step(monkeypatch, "raised", delete_chat):
        import_lines(one_message, [message_body(7), message_body(chat=2)])
    assert found == [True, True]
    assert not reserved(one_message)


def test_a_direct_write_keeps_its_numbers_reserved_while_the_shard_is_locked(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises the counters first, and may have to wait for the shard several times."""
    monkeypatch.setattr(direct_write, "LOCK_TIMEOUT_SECONDS", 0.1)
    shard = one_message.counters.shard(TOKEN)
    found: list[bool] = []
    writer = one_message.importer._direct_writer
    with one_message.database.engine.connect() as holder:
        assert shards.lock_shard(holder, shard)

        def look_and_unlock(_: int) -> int:
            found.append(reserved(one_message))
            holder.rollback()
            return 0

        monkeypatch.setattr(writer._drainer, "drain", look_and_unlock)
        assert import_lines(one_message, [message_body(2)])[1] == []
    assert found == [True]
    assert not reserved(one_message)


def test_an_import_and_writers_in_one_chat_never_share_a_number(backend: Backend) -> None:
    """Every answered message is stored under its number, beside three writers and an import in one chat.

    If a writer was first, the import stops with a conflict; if the import was first, the writers' numbers are
    above it. The test continues until both have happened.
    """
    first, last = 61, 160
    shard = backend.counters.shard(TOKEN)
    import_lines(backend, [application_body()])
    answered: dict[tuple[int, int], str] = {}
    winners: set[str] = set()

    def write(number: int) -> None:
        for n in range(40):
            words = f"{threading.get_ident()} {n}"
            key = number, send(backend, TOKEN, words, chat=number)
            assert key not in answered, "a number was issued twice"
            answered[key] = words

    with repeating(lambda: backend.drainer.drain(shard)), ThreadPoolExecutor(3) as pool:
        for number in range(1, 401):
            import_lines(backend, [chat_body(number)])
            writers = [pool.submit(write, number) for _ in range(3)]
            while number % 2 and (number, 50) not in answered and not writers[0].done():
                pass  # every other time the writers start first
            lines = [message_body(n, chat=number) for n in range(first, last + 1)]
            faults = import_lines(backend, lines)[1]
            assert {type(fault.error) for fault in faults} <= {Conflict}
            for writer in writers:
                writer.result()
            if faults:
                winners.add("writers")
            elif any(key[0] == number and key[1] > last for key in answered):
                winners.add("import")
            if number >= 8 and len(winners) == 2:
                break
    backend.drainer.drain_all()
    stored = {
        (chat_number, number): words
        for chat_number, number, words in query(
            backend,
            "SELECT c.number, m.number, m.text FROM message m JOIN chat c ON c.id = m.chat_id",
        )
    }
    assert count_dead_letters(backend) == 0
    assert answered.items() <= stored.items()
    imported = {f"text {n}" for n in range(first, last + 1)}
    assert {words for key, words in stored.items() if key not in answered} <= imported
    assert "import" in winners, "the import was never before the writers"
