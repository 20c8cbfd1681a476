"""Imports that are interrupted, or whose Redis loses data: importing the same lines completes them."""

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Conflict
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.transfer import format as line_format
from tests.integration.transfer.conftest import SampleExport
from tests.support.faults.shortcuts import send
from tests.support.transfer import (
    TEXTS,
    TOKEN,
    after_step,
    chat_body,
    count_dead_letters,
    export,
    import_lines,
    locate_faults,
    message_body,
    read_chat,
)


class Crash(BaseException):
    """Stands for the end of the process: no code handles it."""


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("step", ["compared", "raised", "written"])
def test_a_second_import_completes_an_interrupted_one(
    backend: Backend,
    sample: SampleExport,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    nth: int,
) -> None:
    """An import that ended at any step of its first or a later chunk continues with the same file."""
    token, data = sample
    lines = data.splitlines(keepends=True)
    monkeypatch.setattr(line_format, "CHUNK_LINES", 40)

    def crash() -> None:
        raise Crash

    assert import_lines(backend, b"".join(lines[: (nth - 1) * 40]))[1] == []
    with after_step(monkeypatch, step, crash), pytest.raises(Crash):
        import_lines(backend, data)
    work, faults = import_lines(backend, data)
    assert (faults, work.counts.stored + work.counts.skipped) == ([], len(lines))
    assert export(backend) == data
    assert send(backend, token, "x") == len(TEXTS) + 1
    backend.drainer.drain_all()
    assert count_dead_letters(backend) == 0


def test_a_wipe_of_redis_interrupts_no_import(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a wipe at any step, the import raises the counters again, in the new epoch."""
    lines = [*map(message_body, range(1, 6))]
    for number, step in enumerate(("compared", "raised", "written"), 1):
        lines += [message_body(number * 10), chat_body(number + 1)]
        with after_step(monkeypatch, step, one_message.log.redis.flushall):
            assert import_lines(one_message, lines)[1] == []
    assert read_chat(one_message)[1] == 31
    assert one_message.acceptor.accept(AcceptRequest.chats(TOKEN)).first == 5


def test_a_message_accepted_in_a_new_epoch_keeps_its_number(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis is wiped after the counters were raised, and issues the number, the line is a conflict."""

    def wipe() -> None:
        one_message.log.redis.flushall()
        assert send(one_message, TOKEN, "a") == 2

    with after_step(monkeypatch, "raised", wipe):
        faults = import_lines(one_message, [message_body(2)])[1]
    assert locate_faults(faults) == [(1, Conflict)]
    assert read_chat(one_message) == ([(1, "text 1"), (2, "a")], 3)


def test_a_lost_counter_is_restored_above_the_numbers_in_the_log(
    one_message: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import drains the log first, so that the new counter is above what the lost one had issued."""

    def lose() -> None:
        send(one_message, TOKEN, *"abcde")
        shard = one_message.counters.shard(TOKEN)
        one_message.log.redis.delete(one_message.log.counter_key(shard, Parent(TOKEN, 1)))

    with after_step(monkeypatch, "compared", lose):
        faults = import_lines(one_message, [message_body(3)])[1]
    assert locate_faults(faults) == [(1, Conflict)]
    assert read_chat(one_message)[1] == 7
