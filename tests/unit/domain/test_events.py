"""Events: unpacking returns what was packed, even invalid texts, and rejects everything else."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.api import schemas
from backend.domain.errors import NewerLogFormat
from backend.domain.events import (
    MAX_ENTRY_BYTES,
    MAX_ENTRY_TEXTS,
    ApplicationArrived,
    ApplicationMoved,
    ApplicationStored,
    ChatsCreated,
    DeletionRequested,
    MessagesCreated,
    from_micros,
    pack_application,
    pack_arrival,
    pack_chats,
    pack_deletion,
    pack_messages,
    pack_move,
    token_of,
    unpack,
)
from backend.domain.model import MAX_NUMBER, EntryId, NewMessage
from tests.support.message_fields import (
    EACH_MESSAGE,
    MESSAGE_FIELDS,
    MESSAGES,
    without_nulls,
)

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)
BROKEN = st.lists(st.text(st.characters(), min_size=1), min_size=1)  # with lone surrogates


def test_a_text_alone_is_packed_as_previous_releases_read_it() -> None:
    """During an upgrade their workers read the log, too."""
    assert pack_messages("token", 7, ["a", "b"]) == [(2, b'["m","token",7,["a","b"]]')]


def test_an_event_of_a_later_release_is_told_from_one_that_is_invalid() -> None:
    """Only the first has to stay in the log."""
    with pytest.raises(NewerLogFormat, match="format 99"):
        unpack(b'5 12 v99 ["n","token",{"anything":1}]')
    for invalid in (
        b'5 12 v ["d","t",7]',
        b'5 12 v1["d","t",7]',
        b'5 12 vv2 ["d","t",7]',
        b"5 12 v1 ",
    ):
        with pytest.raises(ValueError, match="not an event"):
            unpack(invalid)
    assert unpack(b'5 12 v1 ["d","t",7]') == unpack(b'5 12 ["d","t",7]')


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_every_field_counts_for_the_size_of_an_entry(field: str) -> None:
    """Entries are bounded in bytes, whichever field has them; none of the messages is lost."""
    long = schemas.FastMessageInput(**MESSAGE_FIELDS | {field: MESSAGE_FIELDS[field] * 100})
    packed = pack_messages("token", 7, [long.new_message()] * 200)
    assert len(packed) > 1
    assert sum(count for count, _ in packed) == 200
    assert all(len(payload) < MAX_ENTRY_BYTES + 2 * MAX_ENTRY_TEXTS for _, payload in packed)


@given(TEXTS)
def test_unpack_returns_the_packed_texts(texts: list[NewMessage]) -> None:
    """All valid texts are returned in their order."""
    ((count, payload),) = pack_messages("token", 7, texts)
    assert count == len(texts)
    assert unpack(b"5 12 " + payload) == MessagesCreated("token", 7, 5, texts, 12)


@given(BROKEN, st.booleans())
def test_unpack_returns_texts_with_lone_surrogates(texts: list[str], escaped: bool) -> None:
    """A lone surrogate, as bytes or as a JSON escape, does not affect other texts."""
    # JSON reads two adjacent escapes as a pair, which is not a lone surrogate.
    payload = json.dumps(["m", "token", 7, texts], ensure_ascii=escaped)
    again = json.loads(payload)[3]
    field = b"5 12 " + payload.encode("utf-8", "surrogatepass")
    assert unpack(field) == MessagesCreated("token", 7, 5, again, 12)


def test_every_field_of_each_message_of_a_batch_is_unpacked() -> None:
    """Also if the batch is split into several entries, and if only some messages have the field."""
    new_messages = [
        schemas.MessageInput(
            **{name: f"{number} {value}" for name, value in without_nulls(fields).items()}
        ).new_message()
        for number in range(MAX_ENTRY_TEXTS + 100)
        for fields in MESSAGES
    ]
    unpacked: list[NewMessage] = []
    entries = pack_messages("token", 7, new_messages)
    for count, payload in entries:
        event = unpack(b"%d 12 " % (len(unpacked) + 1) + payload)
        assert isinstance(event, MessagesCreated)
        assert len(event.messages) == count
        unpacked += event.messages
    assert len(entries) > 2
    assert unpacked == new_messages


def damaged(value: Any) -> Iterator[Any]:
    """The value with one part of another type, or with one member too many, in each possible place."""
    match value:
        case list():
            yield [*value, True]
            for at, item in enumerate(value):
                yield from ([*value[:at], other, *value[at + 1 :]] for other in damaged(item))
        case dict():
            yield value | {"another": True}
            for name, item in value.items():
                yield from (value | {name: other} for other in damaged(item))
        case _:
            yield True


@EACH_MESSAGE
def test_unpack_rejects_a_message_with_another_form(fields: dict[str, Any]) -> None:
    """No field of another type is stored, and none that this release does not know is lost."""
    new_message = schemas.MessageInput(**without_nulls(fields)).new_message()
    ((_, payload),) = pack_messages("token", 7, [new_message])
    assert unpack(b"5 12 " + payload) == MessagesCreated("token", 7, 5, [new_message], 12)
    for other in damaged(json.loads(payload)):
        with pytest.raises(ValueError, match=r"^not an event: [A-Za-z ]+$"):
            unpack(b"5 12 " + json.dumps(other).encode())


def test_unpack_returns_packed_chats_and_deletions() -> None:
    """A deletion is of a chat or of an application, with or without a cascade."""
    ((_, chats),) = pack_chats("token", 3)
    assert unpack(b"5 12 " + chats) == ChatsCreated("token", 5, 7, 12)
    for chat in (None, 7):
        for cascade in (False, True):
            ((_, payload),) = pack_deletion("token", chat, cascade=cascade)
            assert unpack(b"0 12 " + payload) == DeletionRequested("token", chat, 12, cascade)


def test_unpack_returns_packed_applications() -> None:
    """An earlier program leaves them in the log: they are of the second format."""
    created, renamed = from_micros(10), from_micros(20)
    payload = pack_application("token", "Näme", 7, created, renamed)
    assert payload == b'v2 ["a","token","N\xc3\xa4me",7,10,20]'
    assert unpack(b"0 30 " + payload) == ApplicationStored("token", "Näme", 7, 10, 20, 30)
    current = "t" * 32
    payload = pack_application("token", "Näme", 7, created, renamed, current)
    assert payload.startswith(b"v4 ")
    assert unpack(b"0 30 " + payload) == ApplicationStored("token", "Näme", 7, 10, 20, 30, current)


@pytest.mark.parametrize(
    "field",
    [
        *(b"", b"1", b"1 2", b"1 2 ", b"x 2 [1]", b"\xff\xff 2 []"),
        *(b'1 2 ["m","t",1,["a"]', b'1 2 ["m","t",1,["a"]]]', b'1 2 ["m","t",1,["a"]] x'),
        *(b'1 2 ["m","t",1,[]]', b'1 2 ["m","t",1,[1]]', b'1 2 ["m","t",1,[null]]'),
        *(b'1 2 ["m","t",1,"a"]', b'1 2 ["m","t",1]', b'1 2 ["m","t",1,["a"],2]'),
        *(b'1 2 ["m","t",true,["a"]]', b'1 2 ["m","t","1",["a"]]', b'1 2 ["m","t",0,["a"]]'),
        *(b'1 2 ["m","t",1.5,["a"]]', b'1 2 ["m","t",9007199254740992,["a"]]'),
        *(b'1 2 ["m","",1,["a"]]', b'1 2 ["m","\xd8\xb3",1,["a"]]', b'1 2 ["m",1,1,["a"]]'),
        *(b'1 2 ["x","t",1]', b'1 2 [["m"],"t",1,["a"]]', b'1 2 {"m":1}', b"1 2 null"),
        *(b'1 2 ["c","t",0]', b'1 2 ["c","t",true]', b'1 2 ["c","t",99999999]'),
        *(b'1 2 ["d","t"]', b'1 2 ["d","t",0]', b'1 2 ["d","t",1,"other"]'),
        *(b'0 2 v2 ["a","t","n",-1,1,1]', b'0 2 v2 ["a","t",null,1,1,1]', b'0 2 v2 ["a","t","n"]'),
        *(b'0 2 ["m","t",1,["a"]]', b'1 -1 ["m","t",1,["a"]]', b'-1 2 ["c","t",1]'),
        *(b'1 253402300800000000 ["m","t",1,["a"]]', b"1 2 " + b"[" * 100_000),
        b"%d 2 " % MAX_NUMBER + b'["m","t",1,["a","b"]]',
        b"%d 2 " % MAX_NUMBER + b'["c","t",2]',
    ],
    ids=lambda field: repr(field[:40]),
)
def test_unpack_rejects_what_is_not_an_event(field: bytes) -> None:
    """The ValueError contains no part of the text; the drain makes a dead letter of the entry."""
    with pytest.raises(ValueError, match=r"^not an event: [A-Za-z ]+$"):
        unpack(field)


def test_a_move_and_an_arrival_are_read_as_they_were_packed() -> None:
    """An older program leaves both in the log: they begin with a format that it does not know."""
    ((count, moved),) = pack_move("token", 2_048, 3)
    assert count == 0
    assert unpack(b"0 30 " + moved) == ApplicationMoved("token", 2_048, 3, 30)
    arrived = pack_arrival("token", 16, EntryId(4, 5), 3)
    assert unpack(b"0 30 " + arrived) == ApplicationArrived("token", 16, 4, 5, 3, 30)
    assert moved.startswith(b"v3 ")
    assert arrived.startswith(b"v3 ")
    assert token_of(b"0 30 " + moved) == token_of(b"0 30 " + arrived) == "token"
