"""Single messages are accepted by the same call as other creations, and its reply means the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.storage.redis.accept import AcceptCalls, read_single_messages
from backend.storage.redis.appended import split_reply
from backend.storage.redis.types import AcceptOutcome, Creation, ShardBatch
from tests.support.accepting import outcomes, single_messages

NUMBER = st.integers(0, 2**53)
CHATS = st.dictionaries(
    st.integers(0, 200),
    st.lists(
        st.builds(Parent, st.text("abc-_", min_size=22, max_size=24), st.integers(1, 10**15)),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    min_size=1,
    max_size=5,
)


LOGS = [AcceptCalls(url) for url in ("redis://nowhere.invalid", "redis+cluster://nowhere.invalid")]


def batches_of(chats: dict[int, list[Parent]], known: EntryId) -> list[ShardBatch]:
    """A message in each of those chats, by shard."""
    return [
        ShardBatch(
            shard,
            [
                Creation("messages", Parent(*at), pack_messages(at[0], at[1] or 0, ["a"]))
                for at in chats_
            ],
            known,
        )
        for shard, chats_ in chats.items()
    ]


@pytest.mark.parametrize("log", LOGS, ids=["single", "cluster"])
@given(chats=CHATS, epoch=NUMBER, sequence=NUMBER)
def test_the_command_is_that_of_any_creations(
    log: AcceptCalls, chats: dict[int, list[Parent]], epoch: int, sequence: int
) -> None:
    batches = batches_of(chats, EntryId(epoch, sequence))
    last_seen = [batch.last_seen for batch in batches]
    command = log.single_messages_command(single_messages(batches), last_seen)
    assert command == log.accept_command(batches)


@pytest.mark.parametrize("log", LOGS, ids=["single", "cluster"])
@given(chats=CHATS, data=st.data())
def test_a_reply_with_numbers_means_the_same(
    log: AcceptCalls, chats: dict[int, list[Parent]], data: st.DataObject
) -> None:
    batches = batches_of(chats, EntryId(1, 0))
    messages = single_messages(batches)
    reply: list[Any] = []
    for batch in batches:
        reply += [
            len(batch.creations),
            data.draw(NUMBER),
            data.draw(NUMBER),
            data.draw(st.integers(0, 1)),
        ]
        reply += [data.draw(NUMBER) for _ in batch.creations]
    answers: list[Any] = [None] * sum(map(len, messages.values()))
    ends = read_single_messages(messages, reply, answers)
    assert ends is not None
    expected = log.accept_results(batches, split_reply(reply))
    assert outcomes(messages, ends, answers) == expected
    assert all(isinstance(outcome, AcceptOutcome) for outcome in expected)


@pytest.mark.parametrize(
    "reply",
    [
        [1, 1, 5, 0, 7, 1, 1, 5, 0, b"closed chat"],
        [1, 1, 5, 0, 7, [b"stale", b"other", 0]],
        [[b"stale", b"other", 0], [b"stale", b"other", 0]],
        [1, 1, 5, 0, 7, ValueError("an error of Redis")],
        [1, 1, 5, 0, 7],
        [],
    ],
)
def test_a_reply_with_a_refusal_is_not_taken(reply: list[Any]) -> None:
    messages = {shard: [(Parent("t" * 32, 1), b"", shard)] for shard in (0, 1)}
    answers: list[Any] = [None] * 2
    assert read_single_messages(messages, reply, answers) is None
    assert answers == [None] * 2
