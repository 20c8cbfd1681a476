"""Counters that imports and repairs raise and close, many at once."""

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Failed
from backend.domain.model import Parent
from backend.storage.redis.types import StaleEpoch
from tests.support.transfer import (
    TOKEN,
    application_body,
    chat_body,
    import_lines,
    message_body,
    read_everything,
)

CHAT = Parent(TOKEN, 1)


@pytest.fixture
def five_messages(backend: Backend) -> Backend:
    """A backend with an application whose chat 1 has issued five numbers."""
    _, faults = import_lines(backend, [application_body(), chat_body(), message_body(5)])
    assert faults == []
    return backend


def test_raise_all_and_set_closed_reject_any_other_epoch(five_messages: Backend) -> None:
    """They change counters only in the epoch in which SQL was read; otherwise they change nothing."""
    log, shard = five_messages.log, five_messages.counters.shard(TOKEN)
    before = read_everything(five_messages)
    for epoch in (0, 2):
        with pytest.raises(StaleEpoch):
            log.raise_all(shard, epoch, {CHAT: 9}, create=True)
        with pytest.raises(StaleEpoch):
            log.set_closed(shard, epoch, {CHAT: True})
    assert read_everything(five_messages) == before


def test_raise_all_lowers_no_counter_and_creates_one_on_request_only(
    five_messages: Backend,
) -> None:
    """Where a key has a foreign type, the call fails and raises nothing."""
    log, shard = five_messages.log, five_messages.counters.shard(TOKEN)
    wanted = {CHAT: 3, Parent(TOKEN, 2): 4}
    assert log.raise_all(shard, 1, wanted, create=False)[0] is False
    assert log.read_issued(shard, list(wanted))[0] == [5, None]
    assert log.raise_all(shard, 1, wanted, create=True)[0] is True
    assert log.read_issued(shard, list(wanted))[0] == [5, 4]
    log.redis.set(log.key(shard, "dirty"), "foreign")
    with pytest.raises(Failed, match="foreign"):
        log.raise_all(shard, 1, {CHAT: 9}, create=False)
    assert log.read_issued(shard, list(wanted))[0] == [5, 4]
