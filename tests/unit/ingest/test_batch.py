"""Batches: a drain takes as much of a page as its limits allow."""

import pytest

from backend.domain.events import pack_messages
from backend.domain.folding import fold
from backend.ingest.batch import BatchLimits, ShardLimits, decode_batch

TOKEN = "a" * 32
DEAR = "\ufdfa" * 9000  # folds to 162,000 code points


def entries(count: int, text: str) -> list[tuple[bytes, bytes]]:
    """Entries of one message each."""
    ((_, packed),) = pack_messages(TOKEN, 1, [text])
    return [(b"1-%d" % number, b"%d 1 %b" % (number, packed)) for number in range(1, count + 1)]


def test_a_batch_ends_where_the_folded_texts_are_long() -> None:
    page = entries(10, DEAR)
    without_time = BatchLimits(seconds=float("inf"))

    batch = decode_batch(page, without_time._replace(length=3 * len(fold(DEAR))))

    assert [entry.id for entry in batch] == [id_ for id_, _ in page[: len(batch)]]
    assert len(batch) == 3
    assert batch[0].folded == [fold(DEAR)]
    assert len(decode_batch(entries(10, "a"), without_time)) == 10


def test_a_batch_has_an_entry_however_little_time_there_is() -> None:
    """Otherwise a drain on a busy machine would never store anything."""
    assert len(decode_batch(entries(10, "a"), BatchLimits(seconds=0))) == 1
    assert len(decode_batch(entries(10, DEAR), BatchLimits(length=1))) == 1
    assert decode_batch([]) == []


def test_an_entry_that_is_no_event_is_part_of_the_batch() -> None:
    (entry,) = decode_batch([(b"1-1", b"nonsense")])

    assert entry.event is None
    assert "not an event" in entry.error


def test_limits_are_halved_after_a_failure_and_doubled_after_a_success() -> None:
    limits = ShardLimits(BatchLimits(entries=8))
    for _ in range(3):
        limits.halve(1)
    found = [limits.of(1).entries]
    for _ in range(4):
        limits.double(1)
        found.append(limits.of(1).entries)

    assert found == [1, 2, 4, 8, 8]
    assert limits.of(2) == BatchLimits(entries=8), "another shard has its own"


@pytest.mark.parametrize("times", [1, 40])
def test_halved_limits_allow_something(times: int) -> None:
    limits = BatchLimits().halved(times)

    assert min(limits) > 0
    assert limits.entries <= BatchLimits().entries // 2
