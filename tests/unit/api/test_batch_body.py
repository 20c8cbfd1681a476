"""Large batches are decoded within limits of memory, and as every other body is."""

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.api import problems, schemas
from backend.api.batch_body import COPIES_OF_BATCH, decode_batch
from backend.api.problems import ProblemException
from backend.api.request_body import BodyMemory, decoded_size, parse_json
from backend.domain.model import MAX_BATCH, MAX_TEXT

MESSAGES = b'{"messages":[%s]}'
LENGTH = 100_000
# Each takes many times its length as objects of Python.
SHAPES = {
    "empty objects": b"{},",
    "empty lists": b"[],",
    "numbers": b"1.5,",
    "objects": b'{"a":1},',
    "nested lists": b"[[[[]]]],",
    "short messages": b'{"text":"ab"},',
    "messages with more": b'{"text":"ab","x":[{},{},{}]},',
    "short texts": b'"ab",',
    "wide texts": '"aaaaaaaa\N{GRINNING FACE}",'.encode(),
}


def filled(unit: bytes) -> bytes:
    """A body of this length."""
    return MESSAGES % (unit * (LENGTH // len(unit))).rstrip(b",")


def peak(decode: Callable[[], object]) -> int:
    """The most memory that is allocated at a time, in bytes; errors are ignored."""
    tracemalloc.start()
    try:
        with suppress(ProblemException):
            decode()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bodies_have_a_limit_and_those_of_an_application_half_of_it() -> None:
    """What is refused is counted until its request ends."""
    memory = BodyMemory(10)

    def is_refused(owner: str, size: int) -> bool:
        try:
            memory.hold(owner, size)
        except ProblemException:
            memory.release(owner, size)
            return True
        return False

    assert not is_refused("greedy", 5)
    assert is_refused("greedy", 1)
    assert not is_refused("other", 3)
    assert not is_refused("third", 2)
    assert is_refused("other", 1)
    memory.release("greedy", 5)
    assert not is_refused("other", 2)
    assert memory.held_bytes == 7


@pytest.mark.parametrize("unit", SHAPES.values(), ids=SHAPES)
def test_a_large_batch_takes_no_more_than_is_counted_for_it(unit: bytes) -> None:
    """Whatever is in it."""
    body = bytearray(filled(unit))
    assert peak(lambda: decode_batch(body)) < (COPIES_OF_BATCH - 1) * LENGTH + 1_000_000


@pytest.mark.parametrize("unit", SHAPES.values(), ids=SHAPES)
def test_any_other_body_takes_no_more_than_is_counted_for_it(unit: bytes) -> None:
    """Of which the shapes above take up to thirty times their length."""
    body = filled(unit)
    assert peak(lambda: parse_json(body)) < decoded_size(body)


@pytest.mark.parametrize("last", ["\N{GRINNING FACE}", r"\ud83d\ude00"])
def test_the_widest_text_takes_no_more_than_is_counted_for_it(last: str) -> None:
    """A single character makes each of a text as wide as itself."""
    body = MESSAGES % b'{"text":"%s"}' % ("a" * LENGTH + last).encode()
    assert peak(lambda: decode_batch(bytearray(body))) < COPIES_OF_BATCH * LENGTH + 10_000
    assert peak(lambda: parse_json(body)) < decoded_size(body) + 10_000


def outcome(decode: Callable[[], Any]) -> object:
    """The texts; or the status of the problem."""
    try:
        body = schemas.MessagesBody.model_validate(decode())
    except ProblemException as error:
        return error.problem.status
    except ValidationError:
        return problems.INVALID.status
    texts = [message.text for message in body.messages]
    return problems.INVALID.status if any("\0" in text for text in texts) else texts


def agree(raw: bytes) -> object:
    """The outcome of the two ways to decode a batch, which is the same."""
    found = outcome(lambda: decode_batch(bytearray(raw)))
    assert found == outcome(lambda: parse_json(raw)), raw
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
TEXTS = st.text(st.characters() | st.sampled_from("\0\ud800"), max_size=3)
BATCHES = st.lists(st.fixed_dictionaries({"text": TEXTS}, optional={"x": JSON}), max_size=4)


@given(
    st.one_of(
        st.fixed_dictionaries({"messages": BATCHES}, optional={"x": JSON}).map(json.dumps),
        st.fixed_dictionaries({"messages": st.lists(JSON)}).map(json.dumps),
        JSON.map(json.dumps),
        st.text(st.sampled_from('{}[]",:\\u0d8cx1 messagestext'), max_size=20),
    ).map(str.encode)
    | st.binary(max_size=20)
)
def test_a_large_batch_is_decoded_as_a_small_one(raw: bytes) -> None:
    """Both accept and refuse the same, with the same status."""
    agree(raw)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (MESSAGES % b"", 422),
        (MESSAGES % b'{"text":""}', 422),
        (MESSAGES % b'{"text":"a\\u0000"}', 422),
        (MESSAGES % b'{"text":"\\ud800"},{"text":"a"}', 422),
        (MESSAGES % b'{"text":"\\udc00\\ud800"}', 422),
        (MESSAGES % b'{"text":"\xff"}', 400),
        (MESSAGES % b'{"text":"a","x":"\xff"}', 400),
        (MESSAGES % b'{"text":"a","x":NaN}', 400),
        (MESSAGES % b'{"text":"a"},', 400),
        (MESSAGES % (b'{"text":"%s"}' % (b"a" * (MAX_TEXT + 1))), 422),
        (MESSAGES % (b'{"text":"a"},' * (MAX_BATCH + 1)).rstrip(b","), 422),
        (b'{"messages":[],"x":' + b"[" * 100_000, 400),
    ],
)
def test_a_large_batch_that_is_not_valid_is_refused_as_a_small_one(raw: bytes, status: int) -> None:
    """400 for what is not JSON in UTF-8, 422 for what is not a batch of messages."""
    assert agree(raw) == status


def test_the_largest_batch_is_decoded() -> None:
    """Each text at its maximum length."""
    texts = ["\N{GRINNING FACE}" * MAX_TEXT] * MAX_BATCH
    body = {"messages": [{"text": text} for text in texts]}
    raw = json.dumps(body, ensure_ascii=False).encode()
    assert decode_batch(bytearray(raw)) == body


def test_a_refusal_names_the_place() -> None:
    """And not the text."""
    with pytest.raises(ProblemException) as caught:
        decode_batch(bytearray(MESSAGES % b'{"text":"a"},{"text":["private"]}'))
    detail = caught.value.problem_detail or ""
    assert detail.startswith("body.messages.1.text: ")
    assert "private" not in detail
