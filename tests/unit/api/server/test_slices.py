"""Slices: calls in order, and whatever else has arrived between them."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from backend.api.server import slices
from backend.api.server.slices import Slices


class Recorder:
    """What was called, in order."""

    def __init__(self) -> None:
        self.called: list[object] = []

    def call(self, name: object) -> Callable[[], None]:
        """A call that records its name."""
        return partial(self.called.append, name)


@pytest.fixture
def record() -> Recorder:
    """Nothing is called yet."""
    return Recorder()


def never() -> bool:
    """Nothing is being accepted."""
    return False


def test_short_calls_are_made_at_once(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing was waiting, so that nothing is finished later."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 60)

    async def scenario() -> None:
        Slices(record.call("finished"), never).run(map(record.call, range(5)))
        assert record.called == [0, 1, 2, 3, 4]
        await asyncio.sleep(0)
        assert record.called == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_what_arrives_meanwhile_has_its_turn_after_each_slice(
    record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later calls wait for the earlier ones. The end is told once."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0)

    async def scenario() -> None:
        calls = Slices(record.call("finished"), never)
        calls.run(map(record.call, range(3)))
        calls.run([record.call(3)])
        assert calls.waiting_calls == 3
        for turn in "abcd":
            record.called.append(turn)
            await asyncio.sleep(0)
        assert record.called == [0, "a", 1, "b", 2, "c", 3, "finished", "d"]
        assert calls.waiting_calls == 0

    asyncio.run(scenario())


def test_slices_give_way_to_what_is_being_accepted(
    record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are short then, and what a connection schedules after a slice comes before the next one."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 60)
    monkeypatch.setattr(slices, "SHORT_SLICE_SECONDS", 0)
    accepting = True

    async def scenario() -> None:
        nonlocal accepting
        loop = asyncio.get_running_loop()
        calls = Slices(record.call("finished"), lambda: accepting)
        calls.run(map(record.call, range(4)))
        for name in "ab":
            loop.call_soon(record.call(name))
            await asyncio.sleep(0)
        assert record.called == [0, "a", 1, "b"]
        accepting = False
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert record.called[-3:] == [2, 3, "finished"], "the rest is one slice"

    asyncio.run(scenario())


def test_urgent_calls_come_first(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may ask for another one, which is not made inside it."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0)

    async def scenario() -> None:
        calls = Slices(record.call("finished"), never)

        def ask() -> None:
            calls.run_first(record.call("asked"))
            record.called.append("asks")

        calls.run([ask, record.call("last")])
        calls.run_first(record.call("urgent"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert record.called == ["asks", "urgent", "asked", "last", "finished"]

    asyncio.run(scenario())


def test_a_call_that_fails_does_not_end_the_others(
    record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop reports it."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 60)

    def fail() -> None:
        raise RuntimeError

    async def scenario() -> None:
        calls = Slices(record.call("finished"), never)
        with pytest.raises(RuntimeError):
            calls.run([fail, record.call(1)])
        await asyncio.sleep(0)
        calls.run([record.call(2)])
        assert record.called == [1, "finished", 2]

    asyncio.run(scenario())


def test_closing_drops_what_waits(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called after it."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0)

    async def scenario() -> None:
        calls = Slices(record.call("finished"), never)
        calls.run(map(record.call, range(3)))
        calls.close()
        await asyncio.sleep(0)
        assert record.called == [0]

    asyncio.run(scenario())
