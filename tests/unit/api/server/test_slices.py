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


def test_short_calls_are_made_at_once(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing was waiting, so that nothing is finished later."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 60)

    async def scenario() -> None:
        Slices(record.call("finished")).run(map(record.call, range(5)))
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
        calls = Slices(record.call("finished"))
        calls.run(map(record.call, range(3)))
        calls.run([record.call(3)])
        assert calls.waiting_calls == 3
        for turn in "abcd":
            record.called.append(turn)
            await asyncio.sleep(0)
        assert record.called == [0, "a", 1, "b", 2, "c", 3, "finished", "d"]
        assert calls.waiting_calls == 0

    asyncio.run(scenario())


def test_closing_drops_what_waits(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called after it."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0)

    async def scenario() -> None:
        calls = Slices(record.call("finished"))
        calls.run(map(record.call, range(3)))
        calls.close()
        await asyncio.sleep(0)
        assert record.called == [0]

    asyncio.run(scenario())
