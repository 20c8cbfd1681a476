"""How an operation continues after its epoch was lost."""

from typing import cast

import pytest

from backend.domain.errors import Unavailable
from backend.ingest.epochs import MAX_STALE_ATTEMPTS, Epochs
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import StaleEpoch


class RecordingEpochs(Epochs):
    """Begins no epoch, and records the reasons for which it should have."""

    def __init__(self) -> None:
        super().__init__(cast(Log, None), cast(Database, None))
        self.begun: list[tuple[int, str]] = []

    def begin_epoch(self, shard: int, reason: str) -> None:
        self.begun.append((shard, reason))


class StaleAtFirst:
    """Raises StaleEpoch a given number of times, then returns how often it was called."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise StaleEpoch(f"reason {self.calls}")
        return self.calls


@pytest.mark.parametrize("times", range(MAX_STALE_ATTEMPTS))
def test_each_stale_attempt_begins_an_epoch_and_is_repeated(times: int) -> None:
    """The last of six attempts may still succeed."""
    epochs = RecordingEpochs()
    assert epochs.retrying(3, StaleAtFirst(times)) == times + 1
    assert epochs.begun == [(3, f"reason {n}") for n in range(1, times + 1)]


def test_after_six_stale_attempts_it_gives_up() -> None:
    """An endless loop would hide two Redis servers that take turns behind one address."""
    attempt = StaleAtFirst(1_000)
    with pytest.raises(Unavailable, match="again and again"):
        RecordingEpochs().retrying(3, attempt)
    assert attempt.calls == MAX_STALE_ATTEMPTS


def test_a_stale_block_ends_with_a_new_epoch_and_other_errors_pass() -> None:
    """A loop around the block then repeats it."""
    epochs = RecordingEpochs()
    with epochs.renewed_on_stale(3):
        raise StaleEpoch("old")
    assert epochs.begun == [(3, "old")]
    with pytest.raises(ValueError, match="other"), epochs.renewed_on_stale(3):
        raise ValueError("other")
    assert len(epochs.begun) == 1
